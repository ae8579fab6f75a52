"""Metrics of every service: the standard grpc_server_* set, and those of bus, outbox, artifacts, work and dependencies.

Labels are of closed sets, never ids. Durations are histograms, so that replicas can be summed.
"""

from prometheus_client import Counter, Gauge, Histogram

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SLOW = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)

_RPC = ("grpc_type", "grpc_service", "grpc_method")
RPC_STARTED = Counter("grpc_server_started", "RPCs started.", _RPC)
RPC_HANDLED = Counter("grpc_server_handled", "RPCs completed, by status code.", (*_RPC, "grpc_code"))
RPC_SECONDS = Histogram("grpc_server_handling_seconds", "Time from the start of an RPC to its end.", _RPC, buckets=FAST)
RPC_RECEIVED = Counter("grpc_server_msg_received", "Messages received by RPCs.", _RPC)
RPC_SENT = Counter("grpc_server_msg_sent", "Messages sent by RPCs.", _RPC)

EVENTS_HANDLED = Counter("millstream_events_handled", "Events whose keys were queued.", ("type",))
EVENTS_UNKNOWN = Counter("millstream_events_unknown", "Events of a type newer than this version, skipped.")
EVENTS_DEAD = Counter("millstream_events_dead_lettered", "Messages that could not be parsed, kept as dead letters.")
EVENTS_MALFORMED = Gauge(
    "millstream_events_malformed_in_a_row", "Messages in a row that could not be parsed; 0 once one could be."
)
EVENTS_LAG = Gauge("millstream_events_lag", "Messages published and not yet read by this replica.")
EVENTS_READ = Gauge("millstream_events_last_read_timestamp_seconds", "When this replica last received messages.")

OUTBOX_PUBLISHED = Counter("millstream_outbox_published", "Facts published.")
OUTBOX_FAILURES = Counter("millstream_outbox_failures", "Facts whose publishing failed; the sweep retries.")
OUTBOX_PENDING = Gauge("millstream_outbox_pending", "Facts stored and not yet published, at the last sweep.")

OUTBOX_PARKED = Counter("millstream_outbox_parked", "Facts that cannot be published, parked until the next start.")

BLOBS_CALLS = Counter("millstream_blobs_calls", "Calls to the object store; a listing is one.", ("operation",))

STORED_BYTES = Gauge("millstream_storage_bytes", "Bytes stored, at the last listing of all objects.", ("kind",))
STORED_OBJECTS = Gauge("millstream_storage_objects", "Objects stored, at the last listing of all.", ("kind",))
STORAGE_DELETED = Counter("millstream_storage_deleted_bytes", "Bytes deleted that are kept no longer.", ("kind",))

ARTIFACTS_DAMAGED = Counter(
    "millstream_artifact_cache_damaged", "Artifacts on this machine's disk that were damaged, and fetched again."
)

DEPENDENCY_OK = Gauge("millstream_dependency_ok", "Whether the last check of blobs or bus succeeded.", ("dependency",))
DEPENDENCY_SUCCESS = Gauge(
    "millstream_dependency_last_success_timestamp_seconds",
    "When a check of blobs or bus last succeeded.",
    ("dependency",),
)

WORK_QUEUED = Gauge("millstream_work_queued", "Keys waiting for reconcile, by kind.", ("kind",))
WORK_SECONDS = Histogram("millstream_work_reconcile_seconds", "Time of one reconcile.", ("kind",), buckets=FAST)
WORK_FAILURES = Counter("millstream_work_failures", "Reconciles that failed, by error.", ("kind", "code"))
WORK_ENDED = Counter("millstream_work_given_up", "Keys given up for good.", ("kind",))
RESYNCED = Gauge("millstream_work_resynced_timestamp_seconds", "When the last resync ended, by kind.", ("kind",))
