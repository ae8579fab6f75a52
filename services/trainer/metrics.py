"""The trainer's own metrics, in addition to those of every service."""

from prometheus_client import Counter, Gauge

RUNS_ENDED = Counter(
    "millstream_trainer_runs_ended",
    "Training runs that ended, by state: succeeded ones in a worker of this replica, failed and cancelled ones by its "
    "outcome; each once over all replicas. A replica that is down while its worker succeeds counts it when it is back.",
    ("state",),
)
WORKERS_STARTED = Counter("millstream_trainer_workers_started", "Workers started by this replica.")
WORKERS_KILLED = Counter(
    "millstream_trainer_workers_killed", "Workers that did not end in time after SIGTERM, and got SIGKILL."
)
WORKERS_LOST = Counter("millstream_trainer_workers_lost", "Attempts whose worker died without storing a failure.")
SLOTS = Gauge("millstream_trainer_slots", "How many workers this replica runs at once.")
SLOTS_USED = Gauge("millstream_trainer_slots_used", "Workers of this replica that hold an attempt or are about to.")
LOSS = Gauge("millstream_trainer_loss", "Training loss of the model's running run.", ("model",))
PROGRESS = Gauge("millstream_trainer_progress_ratio", "Steps done of the most that the run can take.", ("model",))
ROWS = Gauge("millstream_trainer_rows_per_second", "Rows that the model's running run trains on.", ("model",))
