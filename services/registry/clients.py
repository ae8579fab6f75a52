"""Calls of the registry to other services."""

from typing import TYPE_CHECKING

from millstream.client.aio.pages import pages
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub


async def all_reports(
    evaluator: "EvaluationServiceAsyncStub", model: str, version: int = 0, after: int = 0
) -> list[EvaluationReport]:
    """Every evaluation report of a model, of one version of it, or of its versions above `after`, newest first."""
    request = ListEvaluationReportsRequest(model=model, version=version, after_version=after, page_size=1000)
    return [report async for page in pages(evaluator.ListEvaluationReports, request) for report in page.reports]
