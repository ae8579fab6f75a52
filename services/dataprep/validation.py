"""Checks of a request to import that need no store. Each raises InvalidArgument with the field that is wrong."""

from collections.abc import AsyncIterator

from millstream.dataset.v1.dataset_pb2 import (
    FORMAT_CSV,
    FORMAT_JSON_LINES,
    FORMAT_UNSPECIFIED,
    DatasetSpec,
    Format,
    SplitSpec,
)
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument
from recipekit.catalog import Catalog, UnknownRecipe
from servicekit.limits import COLUMN_CHARACTERS, FILE_NAME_CHARACTERS, check_spec_size, check_text

DEFAULT_SHARE = 0.1
"""Share of validation, and of test, in a spec that names no shares."""
ENDINGS = {
    (".jsonl", ".jsonl.gz"): FORMAT_JSON_LINES,
    (".csv", ".csv.gz"): FORMAT_CSV,
}


async def header_of(requests: AsyncIterator[ImportDatasetRequest]) -> ImportHeader:
    """The header, which must be the first message of the stream, and whose texts have limits."""
    first = await anext(aiter(requests), ImportDatasetRequest())
    if first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message must be the header: dataset, file_name and spec", field="header")
    check_text(first.header.file_name, FILE_NAME_CHARACTERS, "file_name")
    check_spec_size(first.header.spec)
    check_text(first.header.spec.split.column, COLUMN_CHARACTERS, "spec.split.column")
    return first.header


def format_of(header: ImportHeader) -> Format.ValueType:
    """The format that the header names, else that of the file name's ending."""
    if header.format in (FORMAT_JSON_LINES, FORMAT_CSV):
        return header.format
    if header.format != FORMAT_UNSPECIFIED:
        raise InvalidArgument(f"format {header.format} is unknown: use JSON_LINES or CSV", field="format")
    for endings, file_format in ENDINGS.items():
        if header.file_name.lower().endswith(endings):
            return file_format
    raise InvalidArgument(
        f"file_name {header.file_name[:100]!r} has no known ending: end its name in .jsonl, .jsonl.gz, .csv or .csv.gz",
        field="file_name",
    )


def mode_of(header: ImportHeader) -> Import.Mode.ValueType:
    """The mode that the header names."""
    if header.mode not in Import.Mode.values():
        raise InvalidArgument(f"mode {header.mode} is unknown: use APPEND or REPLACE", field="mode")
    return header.mode


def which_mode(dataset: str, number: int) -> str:
    """What to do about an import without a mode, into a dataset whose newest snapshot has this number."""
    return (
        f"{dataset} has rows already (snapshot {number}): import with `--append` to add those of this file, "
        "or with `--replace` to keep those of this file alone (field mode: APPEND or REPLACE)"
    )


def complete_spec(spec: DatasetSpec, catalog: Catalog) -> DatasetSpec:
    """The spec with its defaults filled in, so that equal specs are equal messages."""
    if spec.recipe:
        try:
            catalog.spec(spec.recipe)
        except UnknownRecipe as error:
            raise InvalidArgument(str(error), field="spec.recipe") from None
    complete = DatasetSpec()
    complete.CopyFrom(spec)
    complete.cleaning.SetInParent()
    complete.split.CopyFrom(_complete_split(spec.split))
    return complete


def check_same_import(recorded: Import, requested: Import) -> None:
    """Refuse a request_id that an import of another file, spec or mode has used."""
    before, now = [(one.source.digest, one.source.format, one.spec, one.mode) for one in (recorded, requested)]
    if before == now:
        return
    raise InvalidArgument(
        f"request_id {requested.request_id} was used before for another file, spec or mode of {requested.dataset}: "
        "send a new one",
        field="request_id",
    )


def _complete_split(split: SplitSpec) -> SplitSpec:
    validation, test = split.validation_share, split.test_share
    if split.column:
        if validation or test:
            raise InvalidArgument(
                f"spec.split has the column {split.column!r} and shares: leave one of them out", field="spec.split"
            )
        return split
    if not validation and not test:
        return SplitSpec(validation_share=DEFAULT_SHARE, test_share=DEFAULT_SHARE)
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise InvalidArgument(
            f"spec.split has {validation:g} for validation and {test:g} for test: both must be above 0 and leave "
            "something for training",
            field="spec.split",
        )
    return split
