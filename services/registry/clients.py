"""What the registry asks other services."""

from typing import TYPE_CHECKING

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub


async def all_reports(evaluator: "EvaluationServiceAsyncStub", model: str, version: int = 0) -> list[EvaluationReport]:
    """Every report of a model, or of one version of it; newest first."""
    request = ListEvaluationReportsRequest(model=model, version=version, page_size=1000)
    reports: list[EvaluationReport] = []
    while True:
        response = await evaluator.ListEvaluationReports(request)
        reports += response.reports
        request.page_token = response.next_page_token
        if not request.page_token:
            return reports
