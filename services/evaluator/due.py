"""Which reports are pending: the rule, as a pure function of the champion's ledger and the reports there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry
from recipekit.gate import is_unsure_of_labels


@dataclass(frozen=True)
class ChampionAlias:
    """The alias champion as its ledger was read."""

    version: int = 0
    """The version that it names; 0: none."""
    entry: int = 0
    """The number of the ledger's newest entry; 0: none."""
    ever: frozenset[int] = frozenset()
    """All versions that it ever named."""


def champion_of(entries: Collection[AliasEntry]) -> ChampionAlias:
    """What the ledger's entries, in any order, say of the alias."""
    if not entries:
        return ChampionAlias()
    newest = max(entries, key=lambda entry: entry.number)
    return ChampionAlias(newest.version, newest.number, frozenset(entry.version for entry in entries))


def is_pending(version: int, champion: ChampionAlias, reports: Sequence[EvaluationReport]) -> bool:
    """Whether the version needs a report against the present champion, given all reports on it.

    Each version needs one. Once it has one, it needs another only if the newest passed, it never was champion, it is
    above the champion, and no report compares it with that champion. "Newest" goes by the champion's ledger, which no
    clock can disturb. A report that passed before labels were compared does not count as a comparison with that champion.
    """
    if not reports:
        return True
    if any(report.champion_version == champion.version and not _is_outdated(report) for report in reports):
        return False
    newest = max(reports, key=lambda report: (report.champion_entry, report.create_time.ToNanoseconds()))
    return _passed(newest) and version not in champion.ever and version > champion.version


def _passed(report: EvaluationReport) -> bool:
    return report.status == EvaluationReport.STATUS_PASSED


def _is_outdated(report: EvaluationReport) -> bool:
    return _passed(report) and is_unsure_of_labels(report)
