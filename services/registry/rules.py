"""The rules of promotion and rollback, as pure functions."""

from collections.abc import Callable, Sequence

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, LabelChange
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelSpec
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.gate import format_labels, is_damaged, is_unsure_of_labels, rules_of, verdict

Rules = Callable[[EvaluationReport], Sequence[GateRule]]
"""The model's present gate, for the version of a report."""


def gate_of(spec: ModelSpec, catalog: Catalog) -> list[GateRule]:
    """The rules that hold now for a version of the spec's recipe; none where this registry does not have the recipe."""
    try:
        return list(spec.gate) or rules_of(catalog.spec(spec.recipe))
    except UnknownRecipe:
        return []


def present_gate(spec: ModelSpec, catalog: Catalog, report: EvaluationReport) -> list[GateRule]:
    """The rules that hold now for the version of a report: the model's own, else those of the version's recipe.

    The rules of the report stand in for a recipe that this registry does not have.
    """
    if spec.gate:
        return list(spec.gate)
    try:
        return rules_of(catalog.spec(report.lineage.recipe))
    except UnknownRecipe:
        return [result.rule for result in report.gate if result.HasField("rule")]


def objections(report: EvaluationReport, rules: Sequence[GateRule]) -> list[str]:
    """Why a report does not let its version pass the present gate; empty: it does.

    The figures are judged, not the status, so a gate that was changed after the report holds. A version that could not be
    evaluated has no figures and never passes.
    """
    if report.status not in (EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED):
        return [report.error or "it could not be evaluated"]
    return [result.text for result in verdict(report, rules) if not result.passed]


def damaged(reports: Sequence[EvaluationReport]) -> list[str]:
    """What says of those among the reports that are damaged what to do; a version waits until none of its own is."""
    return [report.error for report in reports if is_damaged(report)]


def _replaces_champion(moves: Sequence[AliasEntry], version: int, alias: str) -> bool:
    """Whether callers of the champion, whose moves these are, get another version by a promotion of this one."""
    return alias == CHAMPION and bool(moves) and moves[-1].version != version


def deciding_report(
    reports: Sequence[EvaluationReport], moves: Sequence[AliasEntry], version: int, alias: str
) -> EvaluationReport | None:
    """Of a version's reports the one that decides on its promotion by hand; None: none does.

    It compares the version, also its labels, with the present champion. Where the champion is not replaced, the newest of
    all stands in for it.
    """
    champion = moves[-1].version if moves else 0
    beside = [report for report in reports if _compares(report, champion)]
    if not beside and not _replaces_champion(moves, version, alias):
        beside = list(reports)
    return max(beside, key=_rank, default=None)


def why_not_compared(
    moves: Sequence[AliasEntry], mine: Sequence[EvaluationReport], champions: Sequence[EvaluationReport]
) -> str:
    """Why the version of the reports `mine`, which compare it with other champions only, does not replace the present one.

    It names labels that the reports of the champion list and those of the version do not, and what a person can do.
    """
    champion, newest = moves[-1].version, mine[0]
    text = f"no report compares it with the champion, version {champion}"
    known = {one.label for report in mine for one in report.label_change.labels if one.version_rows}
    listed = next((one.label_change for one in champions if one.HasField("label_change")), LabelChange())
    missing = [one for one in listed.labels if one.version_rows and one.label not in known]
    if missing:
        text += f", and none lists labels of that one: {format_labels(missing)}"
    text += f"; request one by `millstream reports again {newest.model} {newest.version}`"
    if newest.version in {entry.version for entry in moves}:
        text += f", or go back to it by `millstream rollback {newest.model} {newest.version}`"
    return text


def next_promotion(
    entries: Sequence[AliasEntry], reports: Sequence[EvaluationReport], rules: Rules
) -> EvaluationReport | None:
    """The report whose version becomes champion now, or None.

    It compared its version, also its labels, with the present champion, its figures pass the present gate, and its version
    is newer than the champion and was never champion before. Of several such reports the newest version wins, and of two on
    one version the newest counts. An alias on hold is not moved.
    """
    if entries and entries[-1].hold:
        return None
    champion = entries[-1].version if entries else 0
    passed_over = {entry.version for entry in entries}
    # A report that is damaged may be the one that counts.
    passed_over |= {report.version for report in reports if is_damaged(report)}
    fitting = [
        report
        for report in reports
        if _compares(report, champion) and report.version > champion and report.version not in passed_over
    ]
    newest = {report.version: report for report in sorted(fitting, key=_rank)}
    passing = [report for report in newest.values() if not objections(report, rules(report))]
    return max(passing, key=lambda report: report.version, default=None)


def _compares(report: EvaluationReport, champion: int) -> bool:
    return report.champion_version == champion and not is_unsure_of_labels(report)


def _rank(report: EvaluationReport) -> tuple[int, int]:
    """Of reports on one version the one of the highest rank counts: a requested one before those that it was to replace.

    So no clock of an evaluator decides between them.
    """
    return report.request_number, report.create_time.ToNanoseconds()


def rollback_target(entries: Sequence[AliasEntry], version: int) -> int:
    """The version of a rollback: `version`, or by 0 the one that the alias named before it first named the present.

    So two rollbacks go back two versions. Raises FailedPrecondition when the alias never named such a version.
    """
    versions = [entry.version for entry in entries]
    if not versions:
        raise FailedPrecondition("the alias has never named a version: there is none to roll back to")
    if version:
        if version not in versions:
            raise FailedPrecondition(f"the alias has never named version {version}: promote it instead")
        return version
    first = versions.index(versions[-1])
    if first == 0:
        raise FailedPrecondition(
            f"version {versions[-1]} is the first that the alias named: there is none to roll back to"
        )
    return versions[first - 1]
