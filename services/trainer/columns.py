"""Whether the rows of a snapshot are rows that a recipe can train on."""

from collections.abc import Sequence

from pydantic import ValidationError

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.errors import FailedPrecondition
from recipekit.spec import BadData, Row, Spec


def check_columns(spec: Spec, snapshot: Snapshot) -> None:
    """Raises FailedPrecondition when the snapshot lacks a column that every row of the recipe has.

    A dataset may be imported without a recipe or for another one.
    """
    found = [column.name for column in snapshot.columns if column.kept]
    wanted = [field.alias or name for name, field in spec.row.model_fields.items() if field.is_required()]
    missing = [name for name in wanted if name not in found]
    if found and missing:
        raise FailedPrecondition(
            f"the recipe {spec.name} needs the columns {_listed(wanted)}; snapshot {snapshot.number} of "
            f"{snapshot.dataset} has no {_listed(missing)}, it has {_listed(found)}: rename columns and import the file "
            f"into a new dataset with `--recipe {spec.name}`",
            field="spec.dataset",
        )


def check_rows(spec: Spec, snapshot: Snapshot, split: str, rows: Sequence[Row]) -> None:
    """Raises BadData for the first row that does not fit the recipe, unless the import has checked them all."""
    if snapshot.spec.recipe == spec.name:
        return
    for number, row in enumerate(rows, 1):
        try:
            spec.row.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadData(
                f"row {number} of {split} in snapshot {snapshot.number} of {snapshot.dataset} is no row of the "
                f"recipe {spec.name}: {place}: {first['msg']}; import the file into a new dataset with "
                f"`--recipe {spec.name}`, which sets such rows aside"
            ) from None


def _listed(names: Sequence[str]) -> str:
    """At most ten names."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
