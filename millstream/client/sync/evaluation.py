# Derived from aio/evaluation.py by `python tools/derive_client.py`: do not edit.
"""Evaluation reports of model versions."""

from collections.abc import Iterator

from millstream.client.shared import PAGE, new_request_id
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.evaluation.v1 import evaluation_service_pb2 as evaluation
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport


class Reports(Connection):
    """Calls evaluator."""

    def report(self, report_id: str) -> EvaluationReport:
        """A report: its status, figures and gate results. Raises NotFound."""
        request = evaluation.GetEvaluationReportRequest(report_id=report_id)
        return (self._evaluation.GetEvaluationReport(request)).report

    def reports(self, model: str, version: int = 0) -> Iterator[EvaluationReport]:
        """A model's reports, of the newest version first. `version` 0: of every version."""
        request = evaluation.ListEvaluationReportsRequest(model=model, version=version, page_size=PAGE)
        for page in pages(self._evaluation.ListEvaluationReports, request):
            yield from page.reports

    def report_page(self, report_id: str) -> str:
        """The report as one self-contained HTML page. Raises NotFound."""
        request = evaluation.GetEvaluationReportPageRequest(report_id=report_id)
        return (self._evaluation.GetEvaluationReportPage(request)).html

    def evaluate_again(self, model: str, version: int, *, reason: str = "", request_id: str = "") -> int:
        """Request another report on a version; the number of the request, which its report has as `request_number`.

        The newest report counts, whatever its status. Raises NotFound.
        """
        request = evaluation.EvaluateModelVersionRequest(
            model=model, version=version, reason=reason, request_id=request_id or new_request_id()
        )
        return int((self._evaluation.EvaluateModelVersion(request)).request_number)
