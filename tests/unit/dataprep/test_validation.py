"""The checks of a request to import, and the defaults that they fill in."""

import pytest

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, FORMAT_JSON_LINES, DatasetSpec, Format, Source, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportHeader
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument
from recipekit.catalog import Catalog
from services.dataprep.validation import DEFAULT_SHARE, check_same_import, complete_spec, format_of

CATALOG = Catalog(["tests.recipes"])


@pytest.mark.parametrize(
    ("header", "file_format"),
    [
        (ImportHeader(file_name="a.jsonl"), FORMAT_JSON_LINES),
        (ImportHeader(file_name="A.CSV.GZ"), FORMAT_CSV),
        (ImportHeader(file_name="a.jsonl", format=FORMAT_CSV), FORMAT_CSV),
        (ImportHeader(file_name="export", format=FORMAT_JSON_LINES), FORMAT_JSON_LINES),
    ],
)
def test_the_format_is_that_of_the_header_else_of_the_file_name(
    header: ImportHeader, file_format: Format.ValueType
) -> None:
    assert format_of(header) == file_format


def test_equal_specs_are_equal_messages_once_complete() -> None:
    left_out = complete_spec(DatasetSpec(recipe="toy_words"), CATALOG)
    shares = SplitSpec(validation_share=DEFAULT_SHARE, test_share=DEFAULT_SHARE)
    assert left_out == complete_spec(DatasetSpec(recipe="toy_words", split=shares), CATALOG)
    assert left_out.HasField("cleaning") and left_out.split == shares
    by_column = complete_spec(DatasetSpec(split=SplitSpec(column="fold")), CATALOG)
    assert by_column.split == SplitSpec(column="fold")


@pytest.mark.parametrize(
    ("spec", "field", "text"),
    [
        (DatasetSpec(recipe="nothing"), "spec.recipe", "there are: toy_words"),
        (DatasetSpec(split=SplitSpec(validation_share=0.6, test_share=0.6)), "spec.split", "something for training"),
        (DatasetSpec(split=SplitSpec(column="fold", test_share=0.1)), "spec.split", "leave one of them out"),
    ],
)
def test_a_spec_without_sense_is_refused(spec: DatasetSpec, field: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as caught:
        complete_spec(spec, CATALOG)
    assert caught.value.field == field


def test_a_repeated_request_may_differ_only_in_what_does_not_change_the_import() -> None:
    first = Import(request_id="one", source=Source(digest="d", format=FORMAT_CSV, file_name="a.csv"))
    check_same_import(first, Import(source=Source(digest="d", format=FORMAT_CSV, file_name="b.csv")))
    for other in (
        Import(source=Source(digest="e", format=FORMAT_CSV)),
        Import(source=Source(digest="d", format=FORMAT_JSON_LINES)),
        Import(source=Source(digest="d", format=FORMAT_CSV), spec=DatasetSpec(recipe="toy_words")),
    ):
        with pytest.raises(InvalidArgument, match="send a new one") as caught:
            check_same_import(first, other)
        assert caught.value.field == "request_id"
