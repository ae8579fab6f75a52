"""`python -m services.evaluator.measurement`: one measurement in a process of its own, which the evaluator can end.

The evaluator sends a Request and reads an Answer (servicekit/children.py). Rows come as files, so they are in memory once.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from recipekit.catalog import Catalog
from recipekit.machine import is_of_machine
from recipekit.spec import Measured, Row, Table
from servicekit.blobs.parts import rows_of
from servicekit.children import serve_parent
from servicekit.logs import setup_logs
from services.evaluator.measure import CannotEvaluate, ChampionModel, Figures, cell, measure

log = logging.getLogger(__name__)
LONGEST_TEXT = 2000
"""Characters of an error that an answer holds."""
_FIGURES = TypeAdapter(Figures)


class ChampionRequest(BaseModel):
    """The champion to compare with, as ChampionModel has it, and the files of its rows."""

    version: int
    recipe: str = ""
    folder: Path | None = None
    train: list[Path] | None = []
    validation: list[Path] = []
    test: list[Path] = []
    missing: str = ""


class Request(BaseModel):
    """What to measure: an artifact's folder, the parts of its snapshot, and the champion."""

    recipes: tuple[str, ...]
    folder: Path
    train: list[Path]
    validation: list[Path]
    test: list[Path]
    champion: ChampionRequest | None
    champion_begun: Path
    """A file that is there once the champion's turn has begun, so that its death is not taken for the version's."""
    log_level: str


class Failure(StrEnum):
    """Why there are no figures."""

    VERSION = "version"
    """The version itself is the reason (CannotEvaluate)."""
    MACHINE = "machine"
    """This machine lacks memory, disk or a working device."""
    BUG = "bug"


class Answer(BaseModel):
    """Figures, as JSON has them, or why there are none."""

    figures: dict[str, Any] | None = None
    complete: bool = False
    """There are figures, also of the champion where there is one to measure."""
    failure: Failure | None = None
    text: str = ""


def answer(data: bytes) -> bytes:
    """Measure what the request names. Raises nothing that a recipe raises."""
    request = Request.model_validate_json(data)
    setup_logs("evaluator", request.log_level)
    try:
        figures = _measure(request)
        made = Answer(
            figures=_to_json(figures), complete=figures.champion is not None or not figures.rows_beside_champion
        )
    except CannotEvaluate as error:
        made = Answer(failure=Failure.VERSION, text=str(error)[:LONGEST_TEXT])
    except Exception as error:
        log.exception("not measured")
        failure = Failure.MACHINE if is_of_machine(error) else Failure.BUG
        made = Answer(failure=failure, text=f"{type(error).__name__}: {error}"[:LONGEST_TEXT])
    # pydantic's own JSON has no NaN, which is the figure of a metric that a recipe forgot.
    return json.dumps(made.model_dump()).encode()


def read_answer(data: bytes) -> Answer:
    """What answer() wrote."""
    return Answer.model_validate(json.loads(data))


def figures_of(found: dict[str, Any], catalog: Catalog) -> Figures:
    """The figures of an answer; importing the spec of their recipe imports no model."""
    return _FIGURES.validate_python({**found, "spec": catalog.spec(found["spec"])})


def _measure(request: Request) -> Figures:
    champion = request.champion
    return measure(
        request.folder,
        _rows(request.train),
        _rows(request.test),
        _champion(champion, request.champion_begun.touch) if champion else None,
        Catalog(request.recipes),
        _rows(request.validation),
    )


def _champion(request: ChampionRequest, begin: Callable[[], None]) -> ChampionModel:
    return ChampionModel(
        version=request.version,
        train=None if request.train is None else _rows(request.train),
        validation=_rows(request.validation),
        test=_rows(request.test),
        recipe=request.recipe,
        folder=request.folder,
        missing=request.missing,
        begin=begin,
    )


def _rows(parts: list[Path]) -> list[Row]:
    return [row for part in parts for _, row in rows_of(part)]


def _to_json(figures: Figures) -> dict[str, Any]:
    """Without the spec, which is code: its name stands for it."""
    plain = replace(
        figures,
        candidate=_plain(figures.candidate),
        baseline=figures.baseline and _plain(figures.baseline),
        champion=figures.champion and _plain(figures.champion),
        candidate_beside_champion=figures.candidate_beside_champion and _plain(figures.candidate_beside_champion),
    )
    return {**_FIGURES.dump_python(plain, exclude={"spec"}), "spec": figures.spec.name}


def _plain(measured: Measured) -> Measured:
    """With numbers and cells as JSON can hold them, whatever types a recipe computes with."""
    tables = tuple(
        Table(str(table.title), tuple(map(str, table.columns)), tuple(tuple(map(cell, row)) for row in table.rows))
        for table in measured.tables
    )
    return Measured({name: float(value) for name, value in measured.metrics.items()}, tables)


if __name__ == "__main__":
    serve_parent(answer)
