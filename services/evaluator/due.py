"""Which reports are pending: the rule, as a pure function of the champion's ledger and the reports there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
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


def champion_of(moves: Mapping[int, int]) -> ChampionAlias:
    """What the ledger says of the alias; `moves` is the version of each of its entries."""
    newest = max(moves, default=0)
    return ChampionAlias(moves.get(newest, 0), newest, frozenset(moves.values()))


def newest_of(reports: Collection[EvaluationReport]) -> EvaluationReport:
    """The report on a version that counts, of at least one: it knows the champion's ledger best, then what was requested.

    No clock can disturb that; the time of two reports that know the same decides last.
    """
    return max(reports, key=lambda one: (one.champion_entry, one.request_number, one.create_time.ToNanoseconds()))


def is_pending(
    version: int, champion: ChampionAlias, reports: Sequence[EvaluationReport], request_number: int = 0
) -> bool:
    """Whether the version needs a report against the present champion, given all reports on it.

    It does if none answers the newest request for one, `request_number` (0: nobody asked).

    Each version needs one. Once it has one, it needs another only if it could be evaluated; it never was champion; it is
    above the champion; and no report compares it with that champion. One that failed beside another champion may pass
    beside this one, which has other labels and figures. A report that passed before labels were compared, or on rows of
    labels that the champion never answers, does not count as a comparison.
    """
    if not reports or request_number > max(report.request_number for report in reports):
        return True
    if any(report.champion_version == champion.version and not _is_outdated(report) for report in reports):
        return False
    could_be_evaluated = newest_of(reports).status != EvaluationReport.STATUS_ERROR
    return could_be_evaluated and version not in champion.ever and version > champion.version


def _is_outdated(report: EvaluationReport) -> bool:
    return report.status == EvaluationReport.STATUS_PASSED and is_unsure_of_labels(report)
