"""What protobuf carries and no request may hold is refused with its path."""

import math
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.errors import InvalidArgument
from millstream.registry.v1.model_pb2 import GateRule, ModelSpec, TrainingSpec
from millstream.registry.v1.registry_service_pb2 import AliasAtRequest, ApplyModelRequest
from servicekit.rpc.values import check_values
from servicekit.structs import mapping_of


def applied(**fields: object) -> ApplyModelRequest:
    return ApplyModelRequest(spec=ModelSpec(model="m", **fields))  # type: ignore[arg-type]


WRONG: dict[str, tuple[Message, str]] = {
    "a gate that nothing passes": (
        applied(gate=[GateRule(metric="a", at_least=0.5), GateRule(metric="b", at_most=math.nan)]),
        "spec.gate[1].at_most",
    ),
    "an endless share": (
        ImportDatasetRequest(header=ImportHeader(spec=DatasetSpec(split=SplitSpec(test_share=math.inf)))),
        "header.spec.split.test_share",
    ),
    "a limit of centuries": (
        applied(training=TrainingSpec(time_limit=Duration(seconds=2**62))),
        "spec.training.time_limit",
    ),
    "nanoseconds of the other sign": (
        applied(training=TrainingSpec(minimum_interval=Duration(seconds=1, nanos=-5))),
        "spec.training.minimum_interval",
    ),
    "a time after all calendars": (AliasAtRequest(time=Timestamp(seconds=10**15)), "time"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_without_meaning_is_named(name: str) -> None:
    message, field = WRONG[name]
    with pytest.raises(InvalidArgument) as refused:
        check_values(message)
    assert refused.value.field == field and refused.value.text.startswith(f"{field}: ")


def test_values_with_a_meaning_pass() -> None:
    check_values(AliasAtRequest(model="m", time=Timestamp(seconds=253402300799)))
    check_values(applied(gate=[GateRule(metric="a", at_least=-1e308)], training=TrainingSpec(time_limit=Duration())))
    check_values(ImportDatasetRequest(chunk=b"\xff" * 100))


@pytest.mark.parametrize(
    ("value", "field"),
    [(math.nan, "rows[3].a"), ([1, -math.inf], "rows[3].a[1]"), ({"b": [{"c": math.inf}]}, "rows[3].a.b[0].c")],
)
def test_a_row_or_config_with_a_number_that_json_lacks_is_named(value: Any, field: str) -> None:
    row = Struct()
    row.update({"text": "x", "a": value})
    with pytest.raises(InvalidArgument) as refused:
        mapping_of(row, "rows[3]")
    assert refused.value.field == field


def test_a_row_is_read_as_it_is() -> None:
    row = Struct()
    row.update({"whole": 3, "half": 0.5, "text": "x", "none": None, "list": [True, {"a": "b"}]})
    assert mapping_of(row, "row") == {"whole": 3, "half": 0.5, "text": "x", "none": None, "list": [True, {"a": "b"}]}
