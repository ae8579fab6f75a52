"""What the registry reads from other services."""

import asyncio

from google.protobuf.json_format import ParseDict

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest, ListEvaluationReportsResponse
from millstream.registry.v1.model_pb2 import ModelSpec
from millstream.registry.v1.registry_service_pb2 import ApplyModelRequest
from servicekit.paging import page
from services.registry.clients import all_reports
from services.registry.reconcile import PromotionKey
from tests.worlds.registry import SPEC, Trainer, applied
from tests.worlds.registry import Evaluator as NoReports


class Evaluator:
    """Answers two reports a page, whatever page size is asked for."""

    def __init__(self, *reports: EvaluationReport) -> None:
        self.reports = reports

    async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
        await asyncio.sleep(0)
        fitting = [r for r in self.reports if r.model == request.model and request.version in (0, r.version)]
        found, token = page(fitting, 2, request.page_token, lambda report: report.report_id)
        return ListEvaluationReportsResponse(reports=found, next_page_token=token)


async def test_reports_of_all_pages_are_read() -> None:
    reports = [EvaluationReport(report_id=f"r{number}", model="toy", version=1 + number % 2) for number in range(7)]
    evaluator = Evaluator(*reports, EvaluationReport(report_id="x", model="other", version=1))
    assert await all_reports(evaluator, "toy") == reports  # type: ignore[arg-type]
    assert await all_reports(evaluator, "toy", 2) == reports[1::2]  # type: ignore[arg-type]


async def test_of_a_model_that_is_promoted_by_hand_no_report_is_read() -> None:
    """Each of its moves is an event that asks for a promotion."""

    class Unread(NoReports):
        async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
            raise AssertionError("reports were read for a promotion that nobody wants")

    replica = await applied(Trainer(), Unread())
    by_hand = ParseDict({**SPEC, "promotion": {"automatic": False}}, ModelSpec())
    await replica.service.ApplyModel(ApplyModelRequest(spec=by_hand))
    assert await replica.promote.reconcile(PromotionKey("toy")) is None
