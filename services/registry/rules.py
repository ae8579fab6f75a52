"""The rules of promotion and rollback, as pure functions."""

from collections.abc import Sequence

from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry


def next_promotion(entries: Sequence[AliasEntry], reports: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The report whose version becomes champion now, or None.

    It passed, it compared its version with the present champion, and its version is newer than the champion and was never
    champion before. Of several such reports the newest version wins. An alias on hold is not moved.
    """
    if entries and entries[-1].hold:
        return None
    champion = entries[-1].version if entries else 0
    held = {entry.version for entry in entries}
    fitting = [
        report
        for report in reports
        if report.status == EvaluationReport.STATUS_PASSED
        and report.champion_version == champion
        and report.version > champion
        and report.version not in held
    ]
    return max(fitting, key=lambda report: report.version, default=None)


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
