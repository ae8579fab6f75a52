"""The Prometheus metrics of inference. Each phase of a request has its own, to show where the time goes."""

from prometheus_client import Counter, Gauge, Histogram

from servicekit.metrics import FAST, SLOW

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)

REQUESTS = Counter("millstream_inference_requests", "Requests for a served version, by task.", ("model", "task"))
REFUSED = Counter(
    "millstream_inference_requests_refused",
    "Requests without an answer: overloaded, deadline (it passed) or cancelled (by the caller).",
    ("model", "reason"),
)
PREPARE_SECONDS = Histogram(
    "millstream_inference_prepare_seconds", "Checking and tokenising one request's rows.", ("model",), buckets=FAST
)
QUEUE_SECONDS = Histogram(
    "millstream_inference_queue_seconds", "Time that one request waited for the model.", ("model",), buckets=FAST
)
INFER_SECONDS = Histogram(
    "millstream_inference_infer_seconds",
    "Time that the model took for the batches of one request, and for its search.",
    ("model",),
    buckets=FAST,
)
BATCH_ROWS = Histogram("millstream_inference_batch_rows", "Rows of one batch.", ("model",), buckets=_ROWS)
BATCH_TOKENS = Histogram(
    "millstream_inference_batch_tokens", "Tokens of one batch, padding included.", ("model",), buckets=_TOKENS
)
QUEUE_TOKENS = Gauge("millstream_inference_queue_tokens", "Tokens waiting for the model.", ("model",))
QUEUE_CHARACTERS = Gauge(
    "millstream_inference_queue_characters", "Characters of the requests in flight on a model.", ("model",)
)
BATCHES_FAILED = Counter(
    "millstream_inference_batches_failed", "Batches in which the model raised an error.", ("model",)
)
LOADS = Counter(
    "millstream_inference_model_loads",
    "Loads of a version, by outcome: loaded, refused or failed.",
    ("model", "outcome"),
)
LOAD_SECONDS = Histogram(
    "millstream_inference_model_load_seconds", "Load, golden rows and warm-up of a version.", ("model",), buckets=SLOW
)
MODEL_INFO = Gauge(
    "millstream_inference_model_info", "1 for each version that this replica serves.", ("model", "version", "digest")
)
REFUSED_ALIASES = Gauge(
    "millstream_inference_refused_aliases",
    "Aliases that name a version which is refused, or which this replica cannot load.",
    ("model",),
)
