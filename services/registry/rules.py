"""The rules of promotion and rollback, as pure functions."""

from collections.abc import Callable, Sequence

from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelSpec
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.gate import is_unsure_of_labels, rules_of, verdict

Rules = Callable[[EvaluationReport], Sequence[GateRule]]
"""The model's present gate, for the version of a report."""


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


def deciding_report(reports: Sequence[EvaluationReport], champion: int) -> EvaluationReport | None:
    """Of a version's reports, newest first, the one that counts: beside the present champion, else the newest."""
    beside = [report for report in reports if report.champion_version == champion]
    return next(iter([*beside, *reports]), None)


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
    held = {entry.version for entry in entries}
    fitting = [
        report
        for report in reports
        if report.champion_version == champion
        and report.version > champion
        and report.version not in held
        and not is_unsure_of_labels(report)
    ]
    # A requested report counts before those that it was to replace, whatever the evaluators' clocks say.
    oldest_first = sorted(fitting, key=lambda one: (one.request_number, one.create_time.ToNanoseconds()))
    newest = {report.version: report for report in oldest_first}
    passing = [report for report in newest.values() if not objections(report, rules(report))]
    return max(passing, key=lambda report: report.version, default=None)


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
