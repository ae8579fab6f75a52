"""Every series of dataprep exists from the start, so that a rate of the first import is seen."""

from prometheus_client import REGISTRY

from millstream.dataset.v1.dataset_pb2 import RowCounts
from millstream.dataset.v1.import_pb2 import Import
from services.dataprep import metrics


def test_every_state_in_which_an_import_ends_has_a_series() -> None:
    pending = {Import.STATE_UNSPECIFIED, Import.STATE_PENDING, Import.STATE_RUNNING}
    assert set(metrics.ENDS) == set(Import.State.values()) - pending
    for state in metrics.ENDS.values():
        assert REGISTRY.get_sample_value("millstream_dataprep_imports_total", {"state": state}) is not None


def test_every_outcome_of_a_row_has_a_series() -> None:
    assert set(metrics.OUTCOMES) == {field.name for field in RowCounts.DESCRIPTOR.fields} - {"read", "carried"}
    for outcome in metrics.OUTCOMES:
        assert REGISTRY.get_sample_value("millstream_dataprep_rows_total", {"outcome": outcome}) is not None
