"""EvaluationService: message in, message out."""

from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.evaluation.v1.evaluation_service_pb2 import (
    EvaluateModelVersionRequest,
    EvaluateModelVersionResponse,
    GetEvaluationReportPageRequest,
    GetEvaluationReportPageResponse,
    GetEvaluationReportRequest,
    GetEvaluationReportResponse,
    ListEvaluationReportsRequest,
    ListEvaluationReportsResponse,
)
from servicekit.facts.markers import fact_id_of
from servicekit.facts.open_work import OpenFact
from servicekit.ids import check_name, check_request_id
from servicekit.limits import PAGE_BYTES, check_reason
from servicekit.paging import itself, message_page, page_size, place_of, trimmed, wrong_token
from servicekit.rpc.caller import actor
from servicekit.work.queue import Work
from services.evaluator.clients import Clients
from services.evaluator.store import Store, version_of


def _id_of(report: EvaluationReport) -> str:
    return report.report_id


class EvaluationService:
    """Reads reports, and takes requests for others."""

    def __init__(self, store: Store, clients: Clients, work: Work) -> None:
        self.store, self.clients, self.work = store, clients, work

    async def GetEvaluationReport(self, request: GetEvaluationReportRequest) -> GetEvaluationReportResponse:
        """Raises NotFound, or InvalidArgument for a malformed id."""
        return GetEvaluationReportResponse(report=trimmed(await self._report(request.report_id)))

    async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
        """Of a model, of the newest version first; a model that does not exist has none. Reads a page, not all."""
        check_name(request.model, "model")
        reports, token = await message_page(await self._to_page_end(request), request, _id_of, itself)
        return ListEvaluationReportsResponse(reports=reports, next_page_token=token)

    async def _to_page_end(self, request: ListEvaluationReportsRequest) -> list[EvaluationReport]:
        """The reports from the one that the token names to the one after the page. Raises InvalidArgument."""
        last, size = place_of(request.page_token), page_size(request.page_size)
        try:
            start = version_of(last) if last else 0
        except InvalidArgument:
            raise wrong_token() from None
        found, sent = list[EvaluationReport](), 0
        rest = 0 if last else size + 1
        async for report in self.store.listed(request.model, request.version, above=request.after_version, start=start):
            found.append(report)
            sent += trimmed(report, PAGE_BYTES).ByteSize() if rest else 0
            if report.report_id == last:
                rest = len(found) + size + 1
            if len(found) == rest or sent > PAGE_BYTES or (not rest and report.version < start):
                break
        return found

    async def GetEvaluationReportPage(self, request: GetEvaluationReportPageRequest) -> GetEvaluationReportPageResponse:
        """Rendered from the report at each call; the stored page is a copy for people who read the store."""
        from services.evaluator.report.page import render

        return GetEvaluationReportPageResponse(html=render(trimmed(await self._report(request.report_id), PAGE_BYTES)))

    async def EvaluateModelVersion(self, request: EvaluateModelVersionRequest) -> EvaluateModelVersionResponse:
        """The request of this request_id. Raises InvalidArgument, NotFound for the version, Unavailable."""
        check_name(request.model, "model")
        check_reason(request.reason)
        request_id = check_request_id(request.request_id)
        await self.clients.version(request.model, request.version)
        asked = EvaluationRequest(model=request.model, version=request.version, reason=request.reason)
        requests = self.store.requests(request.model, request.version)
        made = await requests.append(asked, request_id=request_id, actor=actor())
        await self.work.receive(OpenFact(fact_id_of(requests.key(made.number)), made.message))
        return EvaluateModelVersionResponse(request_number=made.number)

    async def _report(self, report_id: str) -> EvaluationReport:
        try:
            return await self.store.report(report_id)
        except NotFound:
            raise NotFound(
                f"there is no evaluation report {report_id}: ListEvaluationReports names those of a model; a version has "
                "none until its evaluation has ended",
                report_id=report_id,
            ) from None
