"""The rules of promotion and rollback: pure functions, no store and no clock."""

from collections.abc import Sequence

from millstream.errors import FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry


def next_promotion(entries: Sequence[AliasEntry], reports: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The report that moves the champion now, or None.

    It passed, it compared with the version that is champion now, and its version is above that one and never held the
    alias. While the alias is on hold nothing moves it. Of several, the newest version wins.
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


def rollback_target(entries: Sequence[AliasEntry], wanted: int) -> int:
    """The version to go back to: the wanted one if the alias ever named it, else the one before the present came.

    Going back twice goes back two versions: what counts is what stood before the present version was first named.
    """
    versions = [entry.version for entry in entries]
    if not versions:
        raise FailedPrecondition("the alias has never named a version: there is nothing to go back to")
    if wanted:
        if wanted not in versions:
            raise FailedPrecondition(f"the alias has never named version {wanted}: promote it instead")
        return wanted
    first = versions.index(versions[-1])
    if first == 0:
        raise FailedPrecondition(f"version {versions[-1]} was the alias's first: there is nothing to go back to")
    return versions[first - 1]
