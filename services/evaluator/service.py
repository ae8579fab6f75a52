"""EvaluationService: message in, message out."""

from millstream.errors import NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import (
    GetEvaluationReportPageRequest,
    GetEvaluationReportPageResponse,
    GetEvaluationReportRequest,
    GetEvaluationReportResponse,
    ListEvaluationReportsRequest,
    ListEvaluationReportsResponse,
)
from servicekit.ids import check_name
from servicekit.limits import PAGE_BYTES
from servicekit.paging import itself, message_page, trimmed
from services.evaluator.store import Store


class EvaluationService:
    """Reads reports; nothing is written here."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def GetEvaluationReport(self, request: GetEvaluationReportRequest) -> GetEvaluationReportResponse:
        """Raises NotFound, or InvalidArgument for a malformed id."""
        return GetEvaluationReportResponse(report=trimmed(await self._report(request.report_id)))

    async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
        """Of a model, newest first; a model that does not exist has none."""
        check_name(request.model, "model")
        found = await self.store.reports(request.model, request.version)
        reports, token = await message_page(found, request, lambda report: report.report_id, itself)
        return ListEvaluationReportsResponse(reports=reports, next_page_token=token)

    async def GetEvaluationReportPage(self, request: GetEvaluationReportPageRequest) -> GetEvaluationReportPageResponse:
        """Rendered from the report at each call; the stored page is a copy for people who read the store."""
        from services.evaluator.report.page import render

        return GetEvaluationReportPageResponse(html=render(trimmed(await self._report(request.report_id), PAGE_BYTES)))

    async def _report(self, report_id: str) -> EvaluationReport:
        try:
            return await self.store.report(report_id)
        except NotFound:
            raise NotFound(
                f"there is no evaluation report {report_id}: ListEvaluationReports names those of a model; a version has "
                "none until its evaluation has ended",
                report_id=report_id,
            ) from None
