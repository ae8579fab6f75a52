"""The evaluator's own metrics, in addition to those of every service."""

from prometheus_client import Counter, Gauge, Histogram

from servicekit.metrics import SLOW

REPORTS = Counter("millstream_evaluator_reports", "Evaluation reports made by this replica, by status.", ("status",))
SECONDS = Histogram(
    "millstream_evaluator_evaluation_seconds",
    "Time from claiming an evaluation to its figures, for evaluations that gave any.",
    buckets=(0.01, 0.03, *SLOW),
)
LEFT_OUT = Counter(
    "millstream_evaluator_rows_left_out", "Test rows that a compared version had seen in training or validation."
)
PRIMARY = Gauge(
    "millstream_evaluator_primary_metric",
    "The recipe's primary metric of the newest version evaluated, on its test split.",
    ("model",),
)
