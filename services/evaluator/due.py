"""Which reports are owed: the rule, as a pure function of what stands."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry


@dataclass(frozen=True)
class Champion:
    """The alias champion as it was read: the version it names (0: none), its ledger's newest number, all it ever named."""

    version: int = 0
    entry: int = 0
    ever: frozenset[int] = frozenset()


def champion_of(entries: Collection[AliasEntry]) -> Champion:
    """What the ledger of the alias says, in whatever order its entries come."""
    if not entries:
        return Champion()
    newest = max(entries, key=lambda entry: entry.number)
    return Champion(newest.version, newest.number, frozenset(entry.version for entry in entries))


def is_pending(version: int, champion: Champion, reports: Sequence[EvaluationReport]) -> bool:
    """Whether the version is owed a report beside the present champion, given all reports on it.

    Each version is owed one. Once it has one, it is owed another only if the newest passed, it never was champion, it is
    above the champion, and no report compares it with that champion. "Newest" goes by the champion's ledger, which no
    clock can disturb.
    """
    if not reports:
        return True
    if any(report.champion_version == champion.version for report in reports):
        return False
    newest = max(reports, key=lambda report: (report.champion_entry, report.create_time.ToNanoseconds()))
    passed = newest.status == EvaluationReport.STATUS_PASSED
    return passed and version not in champion.ever and version > champion.version
