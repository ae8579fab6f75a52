"""The labels of a snapshot: counted by split, compared with the snapshot before, and what about them a person should see."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from millstream.dataset.v1.dataset_pb2 import LabelCount, LabelReport, Snapshot
from recipekit.edges import visible
from recipekit.lookalikes import look
from services.dataprep.pipeline.read import Refused
from services.dataprep.pipeline.rules import SPLITS

MOST_COUNTED = 10_000
MOST_LISTED = 1000
MOST_CHANGED = 100
LONGEST_SHOWN = 200
NAMED = 5
"""Labels that one warning names."""
MOST_PAIRS = 1000
"""Pairs of labels that contradict each other and are counted."""


class Labels:
    """Counts the values of one column of the kept rows, by split, in bounded memory."""

    def __init__(self, column: str) -> None:
        self.column, self.rows = column, 0
        self._counts: dict[str, LabelCount] = {}
        self._stopped = False
        self._of_key: dict[bytes, str] = {}
        """The labels that are counted, by the key under which the rows are known."""
        self._conflicts: Counter[tuple[str, str]] = Counter()
        """Rows in quarantine, by their label and by that of the row before."""

    def add(self, label: Any, split: str, key: bytes = b"") -> None:
        """Count the label of a kept row, which is known by the key; None counts as no label."""
        if label is None:
            return
        self.rows += 1
        shown = _shown(label)
        if shown not in self._counts:
            if len(self._counts) == MOST_COUNTED:
                self._stopped = True
                return
            self._counts[shown] = LabelCount(label=shown)
            self._of_key[key] = shown
        count = self._counts[shown]
        setattr(count, split, getattr(count, split) + 1)

    def contradict(self, label: Any, key: bytes) -> str:
        """Count a row whose label contradicts that of a kept row, which has the key; returns both labels, for a reader."""
        shown, earlier = _shown(label), self._of_key.get(key)
        if earlier is None:
            return f"this row has the label {visible(shown)}, an earlier row with the same key another"
        pair = shown, earlier
        if pair in self._conflicts or len(self._conflicts) < MOST_PAIRS:
            self._conflicts[pair] += 1
        return f"this row has the label {visible(shown)}, an earlier row with the same key {visible(earlier)}"

    def warn_of_conflicts(self) -> list[str]:
        """Labels that contradict each other although they look like one."""
        alike = Counter({pair: rows for pair, rows in self._conflicts.items() if look(pair[0]) == look(pair[1])})
        if not alike:
            return []
        named = ", ".join(
            f"{visible(label)} for {visible(earlier)} × {rows:,}" for (label, earlier), rows in alike.most_common(NAMED)
        )
        more = ", …" if len(alike) > NAMED else ""
        return [
            f"{alike.total():,} rows are in quarantine because their label is not that of an earlier row, but they look "
            f"like one: {named}{more}. Write each label in one way"
        ]

    def check(self) -> None:
        """Raise Refused for labels that no classifier can learn."""
        if len(self._counts) == 1:
            (label,) = self._counts
            raise Refused(
                f"only one label: {visible(label)} × {self.rows:,}. A classifier needs two or more: "
                f"is `{self.column}` the label column?"
            )
        if self._counts and all(_rows(count) == 1 for count in self._counts.values()):
            distinct = f"more than {MOST_COUNTED:,}" if self._stopped else f"{len(self._counts):,}"
            raise Refused(
                f"{distinct} labels in {self.rows:,} rows: is `{self.column}` the label column? "
                "A classifier learns from rows that share a label"
            )

    def report(self) -> LabelReport:
        """The counts, with warnings about labels that training never sees or that look like one another."""
        counts = _most_frequent_first(self._counts.values())
        return LabelReport(
            column=self.column,
            counts=counts[:MOST_LISTED],
            distinct=len(counts),
            distinct_stopped=self._stopped,
            warnings=[*_untrained(counts), *_alike(counts), *self.warn_of_conflicts()],
        )


def compared(report: LabelReport, before: Snapshot | None) -> LabelReport:
    """The report with what is new and what is lost since the snapshot before, first among the warnings."""
    found = LabelReport()
    found.CopyFrom(report)
    earlier = before.labels if before else LabelReport()
    if not before or earlier.column != report.column or not (_is_whole(report) and _is_whole(earlier)):
        return found
    now, then = ({count.label for count in one.counts} for one in (report, earlier))
    new = [count for count in report.counts if count.label not in then]
    lost = [count for count in earlier.counts if count.label not in now]
    found.compared_with = before.number
    found.new_labels.extend(new[:MOST_CHANGED])
    found.lost_labels.extend(lost[:MOST_CHANGED])
    changed = []
    if new:
        changed.append(f"{_number(new)} that snapshot {before.number} does not have: {_named(new)}")
    if lost:
        changed.append(
            f"{_number(lost)} of snapshot {before.number} {'is' if len(lost) == 1 else 'are'} gone: {_named(lost)}"
        )
    changed += _alike_across(report.counts, lost, before.number)
    del found.warnings[:]
    found.warnings.extend([*changed, *report.warnings])
    return found


def _untrained(counts: Sequence[LabelCount]) -> list[str]:
    """Labels that only validation or test has."""
    found = [count for count in counts if not count.train]
    if not found:
        return []
    where = " and ".join(split for split in SPLITS if any(getattr(count, split) for count in found))
    return [f"{_number(found)} of {where} that train does not have, so no model learns it: {_named(found)}"]


def _alike(counts: Sequence[LabelCount]) -> list[str]:
    """Labels that differ only in case, in invisible characters, or in how they write one number."""
    found = [group for group in _by_look(counts).values() if len(group) > 1]
    return _first([f"{_number(group)} that look like one: {_named(group)}" for group in found])


def _alike_across(counts: Sequence[LabelCount], lost: Sequence[LabelCount], number: int) -> list[str]:
    """Labels that look like one of the snapshot before, which is gone."""
    now = _by_look(counts)
    found = [(now[one], group) for one, group in _by_look(lost).items() if one in now]
    return _first(
        [
            f"{_number([*here, *gone])} that look like one: {_named(here)}, and in snapshot {number} {_named(gone)}"
            for here, gone in found
        ]
    )


def _by_look(counts: Iterable[LabelCount]) -> dict[str | Decimal, list[LabelCount]]:
    groups: dict[str | Decimal, list[LabelCount]] = {}
    for count in counts:
        groups.setdefault(look(count.label), []).append(count)
    return groups


def _first(warnings: Sequence[str]) -> list[str]:
    """The first warnings of a kind, and how many more there are."""
    if len(warnings) <= NAMED:
        return [*warnings]
    return [*warnings[:NAMED], f"{len(warnings) - NAMED:,} more groups of labels that look like one"]


def _shown(label: Any) -> str:
    """The label as text; a long one is cut, and ends with a digest, so that two of them stay two."""
    text = label if isinstance(label, str) else json.dumps(label, ensure_ascii=False, sort_keys=True)
    if len(text) <= LONGEST_SHOWN:
        return text
    end = f"… {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text[: LONGEST_SHOWN - len(end)] + end


def _is_whole(report: LabelReport) -> bool:
    return len(report.counts) == report.distinct and not report.distinct_stopped


def _rows(count: LabelCount) -> int:
    return count.train + count.validation + count.test


def _most_frequent_first(counts: Iterable[LabelCount]) -> list[LabelCount]:
    return sorted(counts, key=lambda count: (-_rows(count), count.label))


def _number(found: Sequence[LabelCount]) -> str:
    return f"{len(found):,} label{'' if len(found) == 1 else 's'}"


def _named(found: Sequence[LabelCount]) -> str:
    """The first of them with their rows, written so that an invisible character shows."""
    named = ", ".join(f"{visible(count.label)} × {_rows(count):,}" for count in found[:NAMED])
    return f"{named}, …" if len(found) > NAMED else named
