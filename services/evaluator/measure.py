"""The figures: candidate, baseline and champion. Blocking, and the only place that runs a model.

Candidate and baseline are measured on the rows that neither version has seen, candidate and champion on those of them whose
label the champion answers (`Vocabulary.comparable`).

The rows are those of the candidate's snapshot, which are clean already: inference reads the same once it has cleaned what
callers send. Only a champion whose own rows were cleaned otherwise reads them cleaned once more, its own way.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.cleaning import Cleaning, cleaner
from recipekit.machine import is_of_machine
from recipekit.predictor import GoldenMismatch, Predictor, load_artifact, predict, read_cleaning
from recipekit.spec import Measured, Prediction, Row, Spec
from services.evaluator.vocabulary import Vocabulary, vocabulary_of

log = logging.getLogger(__name__)


class CannotEvaluate(Exception):
    """The version itself is the reason: another attempt would end the same. The text goes into the report."""


@dataclass(frozen=True)
class ChampionModel:
    """The champion that a version is compared with."""

    version: int
    train: Sequence[Row] | None = ()
    """The rows that it was trained on, where they are others than the version's. None: they cannot be read."""
    validation: Sequence[Row] = ()
    """The rows that chose its best weights, where they are others than the version's."""
    test: Sequence[Row] = ()
    """The test rows of its snapshot, where that is another than the version's."""
    recipe: str = ""
    folder: Path | None = None
    """Its artifact; None: it cannot be measured, see `missing`."""
    missing: str = ""
    begin: Callable[[], object] = lambda: None
    """Called when its measurement begins."""


@dataclass(frozen=True)
class Figures:
    """All measurements. `baseline` and `champion` are None when there is none, or when a note says why not.

    Without rows to compare, `rows_compared` is 0 and nothing is measured.
    """

    spec: Spec
    backend: str
    precision: str
    rows_compared: int
    rows_left_out: int
    candidate: Measured
    baseline: Measured | None
    champion: Measured | None
    rows_beside_champion: int = 0
    """Rows on which candidate and champion are compared; 0: there is no champion to measure, or no such row."""
    candidate_beside_champion: Measured | None = None
    """The candidate on these rows; None: they are all that are compared."""
    labels: Vocabulary = field(default_factory=Vocabulary)
    notes: list[str] = field(default_factory=list)


def measure(
    folder: Path,
    train: Sequence[Row],
    test: Sequence[Row],
    champion: ChampionModel | None,
    catalog: Catalog,
    validation: Sequence[Row],
) -> Figures:
    """Measure the artifact in `folder`, trained on `train`, on the test rows that no compared version has seen.

    Validation rows count as seen: they chose a version's best weights. Raises CannotEvaluate, also for a version that has
    seen all test rows itself, what a bug in a recipe raises, and any error that is the machine's.
    """
    spec, predictor = _load(folder, catalog)
    unseen = _without(spec, test, _keys(spec, train, validation))
    if not unseen:
        raise CannotEvaluate(_no_rows(len(test)))
    theirs = _keys(spec, champion.train or (), champion.validation) if champion else set()
    champion = champion and replace(champion, test=_without(spec, champion.test, theirs))
    rows = _without(spec, unseen, theirs)
    figures = Figures(
        spec=spec,
        backend=predictor.backend,
        precision=predictor.precision,
        rows_compared=len(rows),
        rows_left_out=len(test) - len(rows),
        candidate=Measured({}),
        baseline=None,
        champion=None,
        labels=vocabulary_of(spec, train, rows, {"validation": validation, "test": test}, champion, catalog),
    )
    if not rows:
        return figures
    predictions = _predict(spec, predictor, rows)
    baseline = _or_note(figures.notes, "the baseline", lambda: spec.measure(rows, spec.baseline(train, rows)))
    figures = replace(figures, candidate=spec.measure(rows, predictions), baseline=baseline)
    return _beside(champion, figures, rows, predictions, read_cleaning(folder), catalog) if champion else figures


def _beside(
    champion: ChampionModel,
    figures: Figures,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    cleaning: Cleaning | None,
    catalog: Catalog,
) -> Figures:
    """The figures with those of the champion, and of the candidate where the champion is measured on fewer rows."""
    spec, notes = figures.spec, figures.notes
    places = figures.labels.comparable(spec, rows)
    if not places:
        notes.append("no test row has a label that the champion answers, so their figures are not comparable")
        return figures
    theirs = [rows[place] for place in places]
    measured = _measure_champion(champion, spec, theirs, cleaning, catalog, notes)
    fewer = len(theirs) < len(rows)
    return replace(
        figures,
        champion=measured,
        rows_beside_champion=len(theirs) if champion.folder else 0,
        candidate_beside_champion=spec.measure(theirs, [predictions[place] for place in places]) if fewer else None,
    )


def _keys(spec: Spec, *splits: Sequence[Row]) -> set[bytes]:
    return {spec.row_key(row) for rows in splits for row in rows}


def _without(spec: Spec, rows: Sequence[Row], seen: set[bytes]) -> list[Row]:
    return [row for row in rows if spec.row_key(row) not in seen]


def _measure_champion(
    champion: ChampionModel,
    spec: Spec,
    rows: Sequence[Row],
    cleaning: Cleaning | None,
    catalog: Catalog,
    notes: list[str],
) -> Measured | None:
    folder, name = champion.folder, f"the champion, version {champion.version},"
    if folder is None:
        notes.append(f"{name} was not measured: {champion.missing}")
        return None
    champion.begin()

    def measure_it() -> Measured:
        own = read_cleaning(folder)
        served = rows
        if own not in (None, cleaning):
            served = [cleaner(own)(row) for row in rows]
            notes.append(
                f"{name} was trained on rows cleaned otherwise: it read these rows cleaned once more, its own way"
            )
        return spec.measure(rows, _predict(*load_artifact(folder, catalog), served))

    return _or_note(notes, name, measure_it)


def _load(folder: Path, catalog: Catalog) -> tuple[Spec, Predictor]:
    try:
        return load_artifact(folder, catalog)
    except GoldenMismatch as error:
        raise CannotEvaluate(f"the artifact does not predict as it did after training: {error}") from error
    except UnknownRecipe as error:
        raise CannotEvaluate(f"{error}; set MILLSTREAM_RECIPES to packages that hold it, then train again") from error


def _predict(spec: Spec, predictor: Predictor, rows: Sequence[Row]) -> list[Prediction]:
    try:
        inputs = [spec.input.model_validate(dict(row)).model_dump(mode="json") for row in rows]
    except ValidationError as error:
        raise CannotEvaluate(f"a test row is no input of {spec.name}: {error}") from error
    return predict(predictor, inputs)


def _or_note(notes: list[str], what: str, measure_it: Callable[[], Measured]) -> Measured | None:
    """A baseline or champion that fails by itself must not end the evaluation; a rule that needs it fails, and names the
    note. A trouble of this machine says nothing of it."""
    try:
        return measure_it()
    except Exception as error:
        if is_of_machine(error):
            raise
        log.exception("not measured", extra={"what": what})
        notes.append(f"{what} was not measured: {type(error).__name__}: {error}")
        return None


def _no_rows(test_rows: int) -> str:
    if not test_rows:
        return "the snapshot's test split has no rows: import a larger file, or give the dataset a test share above 0"
    return (
        f"all {test_rows} test rows are among the training or validation rows of this version, so nothing can be "
        "measured: import rows that it has not seen"
    )


def figure_of(measured: Measured, metric: str) -> float:
    """One figure; NaN, which no gate passes, where a recipe does not measure what it declares."""
    return float(measured.metrics.get(metric, math.nan))


def cell(value: Any) -> Any:
    """A table's cell as JSON can hold it."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else str(value)
    return str(value)
