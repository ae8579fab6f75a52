"""Which labels a version was trained on, and which the champion: a model answers these labels and no others."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from millstream.evaluation.v1.evaluation_report_pb2 import LabelChange, LabelCount
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.gate import format_labels
from recipekit.spec import Row, Spec

if TYPE_CHECKING:
    from services.evaluator.measure import ChampionModel

LISTED = 100
"""Labels of each kind, lost, new and kept, that a report lists; all are counted."""
LONGEST = 200
"""Characters of a label that a report shows."""


@dataclass(frozen=True)
class Vocabulary:
    """The labels of training rows, with how many rows have each."""

    version: Counter[str] = field(default_factory=Counter)
    champion: Counter[str] | None = None
    """None: there is no other champion, or `unknown` says why its labels could not be read."""
    unknown: str = ""
    untrained: Mapping[str, Counter[str]] = field(default_factory=dict)
    """By split: labels of its rows that no training row has."""

    @property
    def is_disjoint(self) -> bool:
        """Whether both have labels, and none in common: their figures cannot be compared."""
        return bool(self.champion and self.version and not self.champion.keys() & self.version.keys())

    def change(self) -> LabelChange:
        """As the report has it."""
        champion: Counter[str] = self.champion or Counter()
        kinds = (
            champion.keys() - self.version.keys(),
            self.version.keys() - champion.keys(),
            self.version.keys() & champion.keys(),
        )
        rows = self.version + champion
        shown = [label for kind in kinds for label in sorted(kind, key=lambda label: (-rows[label], label))[:LISTED]]
        change = LabelChange(unknown=self.unknown)
        for label in shown:
            change.labels.add(label=label[:LONGEST], version_rows=self.version[label], champion_rows=champion[label])
        if self.champion is not None:
            change.lost, change.new, change.kept = map(len, kinds)
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
            notes.append(f"labels that the champion never answers, so it misses their rows: {_counted(counts)}")
        return notes


def vocabulary_of(
    spec: Spec,
    train: Sequence[Row],
    others: Mapping[str, Sequence[Row]],
    champion: "ChampionModel | None",
    catalog: Catalog,
) -> Vocabulary:
    """The labels of a version's training rows, of its `others` by split, and of the champion's training rows."""
    version = _labels(spec, train)
    untrained = {
        split: Counter({label: count for label, count in _labels(spec, rows).items() if label not in version})
        for split, rows in others.items()
    }
    if champion is None:
        return Vocabulary(version, untrained=untrained)
    if champion.train is None:
        return Vocabulary(version, unknown=champion.missing, untrained=untrained)
    try:
        theirs = _labels(catalog.spec(champion.recipe), champion.train or train)
    except UnknownRecipe as error:
        return Vocabulary(version, unknown=str(error), untrained=untrained)
    return Vocabulary(version, theirs, untrained=untrained)


def _labels(spec: Spec, rows: Sequence[Row]) -> Counter[str]:
    """With how many rows have each; none for a recipe without labels, or whose labels are real numbers."""
    if spec.label is None or not spec.names_labels:
        return Counter()
    values = (row.get(spec.label) for row in rows)
    return Counter(value if isinstance(value, str) else json.dumps(value) for value in values if value is not None)


def _counted(labels: Counter[str]) -> str:
    return format_labels(LabelCount(label=label[:LONGEST], version_rows=rows) for label, rows in labels.most_common(11))
