"""Metrics of dataprep. The replica that stored an import's outcome counts it."""

from prometheus_client import Counter, Histogram

from millstream.dataset.v1.import_pb2 import Import
from millstream.states import IMPORT_ENDED, word_of
from servicekit.metrics import SLOW

ROWS = Counter("millstream_dataprep_rows", "Rows of imports that were not refused, by outcome.", ("outcome",))
IMPORTS = Counter("millstream_dataprep_imports", "Imports that ended, by their state.", ("state",))
SECONDS = Histogram("millstream_dataprep_import_seconds", "Time from an import's request to its outcome.", buckets=SLOW)
UPLOADED = Counter("millstream_dataprep_uploaded_bytes", "Bytes of received files.")

ENDS = {state: word_of(Import.State, state) for state in IMPORT_ENDED}
OUTCOMES = ("kept", "duplicate", "quarantined")

for _state in ENDS.values():
    IMPORTS.labels(_state)
for _outcome in OUTCOMES:
    ROWS.labels(_outcome)
