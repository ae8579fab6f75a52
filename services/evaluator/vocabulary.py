"""Which labels a version was trained on, and which the champion: a model answers these labels and no others.

A label that both have may still be given up: too few rows of it are left to train on, or none measures it
(`Vocabulary.unproven`). A new one may be one of the champion's in another spelling, which splits it in two
(`Vocabulary.lookalikes`), and its rows say nothing of who answers better (`Vocabulary.comparable`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from millstream.evaluation.v1.evaluation_report_pb2 import LabelChange, LabelCount
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.gate import format_labels
from recipekit.lookalikes import look
from recipekit.spec import Row, Spec

if TYPE_CHECKING:
    from services.evaluator.measure import ChampionModel

LISTED = 100
"""Labels of each kind, lost, new and kept, that a report lists; all are counted."""
LONGEST = 200
"""Characters of a label that a report shows."""
LEAST_SHARE = 10
"""A version with fewer than one in so many of the champion's training rows with a label has too few of them."""
FEW = 10
"""So has one with fewer training rows than this where the champion has as many, and one with less than half of the
champion's where that has fewer itself: a label cannot fade away in a few steps."""


@dataclass(frozen=True)
class Vocabulary:
    """The labels of training rows, with how many rows have each; those of `…_tests` are of test rows."""

    version: Counter[str] = field(default_factory=Counter)
    version_tests: Counter[str] = field(default_factory=Counter)
    """Of the test rows on which the version is measured."""
    champion: Counter[str] | None = None
    """None: there is no other champion, or `unknown` says why its labels could not be read."""
    champion_tests: Counter[str] = field(default_factory=Counter)
    """Of the test rows of its snapshot that the champion had not seen."""
    unknown: str = ""
    untrained: Mapping[str, Counter[str]] = field(default_factory=dict)
    """By split: labels of its rows that no training row has."""

    @property
    def is_disjoint(self) -> bool:
        """Whether both have labels, and none in common: their figures cannot be compared."""
        return bool(self.champion and self.version and not self.champion.keys() & self.version.keys())

    @property
    def unproven(self) -> set[str]:
        """Labels of both that nothing shows the version to answer still: too few rows are left, or no test row has them.

        Both are measured by the champion: a label that was as rare in its rows, or that none of its test rows had, is none
        of them.
        """
        champion: Counter[str] = self.champion or Counter()
        too_few = {label for label, rows in self.version.items() if _are_too_few(rows, champion[label])}
        untested = self.champion_tests.keys() - self.version_tests.keys()
        return too_few | (untested & self.version.keys() & champion.keys())

    @property
    def lookalikes(self) -> dict[str, str]:
        """New labels that a person would read as one of the champion, with that one."""
        champion: Counter[str] = self.champion or Counter()
        looks = {look(label): label for label in sorted(champion)}
        new = self.version.keys() - champion.keys()
        return {label: looks[seen] for label in sorted(new) if (seen := look(label)) in looks}

    def comparable(self, spec: Spec, rows: Sequence[Row]) -> list[int]:
        """Places of the rows that say who of the two answers better.

        The champion misses every row of a label that it never answers, so a version that has new labels beside kept ones is
        compared on the rows of the champion's labels.
        """
        champion: Counter[str] = self.champion or Counter()
        if self.version.keys() <= champion.keys() or not self.version.keys() & champion.keys():
            return list(range(len(rows)))
        return [place for place, row in enumerate(rows) if _label(spec, row) in champion]

    def change(self) -> LabelChange:
        """As the report has it."""
        champion: Counter[str] = self.champion or Counter()
        lookalikes = self.lookalikes
        lost, new = champion.keys() - self.version.keys(), self.version.keys() - champion.keys()
        kept, unproven = self.version.keys() & champion.keys(), self.unproven
        rows = self.version + champion
        change = LabelChange(unknown=self.unknown)
        for kind in (lost, unproven, lookalikes.keys(), new - lookalikes.keys(), kept - unproven):
            for label in sorted(kind, key=lambda label: (-rows[label], label))[:LISTED]:
                change.labels.add(
                    label=label[:LONGEST],
                    version_rows=self.version[label],
                    champion_rows=champion[label],
                    version_test_rows=self.version_tests[label],
                    champion_test_rows=self.champion_tests[label],
                    unproven=label in unproven,
                    looks_like=lookalikes.get(label, "")[:LONGEST],
                )
        if self.champion is not None:
            change.lost, change.unproven, change.new, change.kept = map(len, (lost, unproven, new, kept))
            change.lookalike = len(lookalikes)
        return change

    def notes(self) -> list[str]:
        """What a reader of the figures needs to know of the labels."""
        notes = [
            f"{split} rows have labels that no training row has, so the version never answers them: {_counted(labels)}"
            for split, labels in self.untrained.items()
            if labels
        ]
        if self.is_disjoint:
            notes.append("the champion and this version have no label in common, so their figures are not comparable")
        elif self.champion and (new := self.version.keys() - self.champion.keys()):
            counts = Counter({label: self.version[label] for label in new})
            notes.append(
                f"labels that the champion never answers, so it is compared without their rows: {_counted(counts)}"
            )
        return notes


def vocabulary_of(
    spec: Spec,
    train: Sequence[Row],
    measured: Sequence[Row],
    others: Mapping[str, Sequence[Row]],
    champion: "ChampionModel | None",
    catalog: Catalog,
) -> Vocabulary:
    """The labels of a version's training rows, of the test rows it is `measured` on, and of the same rows of the champion.

    `others`, by split, are all rows of the version's validation and test splits.
    """
    version = _labels(spec, train)
    untrained = {
        split: Counter({label: count for label, count in _labels(spec, rows).items() if label not in version})
        for split, rows in others.items()
    }
    mine = Vocabulary(version, _labels(spec, measured), untrained=untrained)
    if champion is None:
        return mine
    if champion.train is None:
        return replace(mine, unknown=champion.missing)
    try:
        other = catalog.spec(champion.recipe)
    except UnknownRecipe as error:
        return replace(mine, unknown=str(error))
    # Without rows of its own it was made from the version's.
    rows, tests = (champion.train, champion.test) if champion.train else (train, measured)
    return replace(mine, champion=_labels(other, rows), champion_tests=_labels(other, tests))


def _labels(spec: Spec, rows: Sequence[Row]) -> Counter[str]:
    """With how many rows have each; none for a recipe without labels, or whose labels are real numbers."""
    if spec.label is None or not spec.names_labels:
        return Counter()
    labels = (_label(spec, row) for row in rows)
    return Counter(label for label in labels if label is not None)


def _label(spec: Spec, row: Row) -> str | None:
    value = row.get(spec.label) if spec.label is not None else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _are_too_few(rows: int, champions: int) -> bool:
    """Whether so few training rows of a label are left, of the champion's, that it may no longer be answered."""
    if champions < FEW:
        return 2 * rows < champions
    return rows < FEW or LEAST_SHARE * rows < champions


def _counted(labels: Counter[str]) -> str:
    return format_labels(LabelCount(label=label[:LONGEST], version_rows=rows) for label, rows in labels.most_common(11))
