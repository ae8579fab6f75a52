"""Reports ↔ objects: `reports/{report_id}/report.html` and `report.json` for people, `report` last, which makes it true."""

import asyncio

from google.protobuf.json_format import MessageToJson

from millstream.errors import NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from servicekit.blobs.port import Blobs
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of

ATTEMPTS = "attempts"
READERS = 16


def _completed(key: str, data: bytes) -> Fact:
    report = EvaluationReport.FromString(data)
    event = EvaluationCompleted(
        report_id=report.report_id, model=report.model, version=report.version, status=report.status
    )
    return Fact(report.model, event)


FACTS: Announce = {"reports/*/report": _completed}


def report_id_of(model: str, version: int, snapshot_id: str, champion_version: int) -> str:
    """Names a report by what it compares, so that two replicas cannot make two."""
    return hash_of(model, version, snapshot_id, champion_version)


class Store:
    """Reports never change, so each is read once."""

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._known: dict[str, EvaluationReport] = {}

    async def report(self, report_id: str) -> EvaluationReport:
        """Raises NotFound."""
        if report_id not in self._known:
            data = await self.blobs.get(f"reports/{report_id}/report")
            self._known[report_id] = EvaluationReport.FromString(data)
        return self._known[report_id]

    async def reports(self, model: str, version: int = 0) -> list[EvaluationReport]:
        """All reports on a model, or on one version of it, newest first."""
        fresh = [name async for name in self.blobs.children("reports/") if name != ATTEMPTS and name not in self._known]
        for start in range(0, len(fresh), READERS):
            await asyncio.gather(*(self._remember(name) for name in fresh[start : start + READERS]))
        found = [report for report in self._known.values() if report.model == model and version in (0, report.version)]
        return sorted(found, key=lambda report: (-report.create_time.ToNanoseconds(), report.report_id))

    async def _remember(self, report_id: str) -> None:
        try:
            await self.report(report_id)
        except NotFound:
            return  # its page stands already, itself not yet

    async def put(self, report: EvaluationReport) -> EvaluationReport:
        """Store a report and say so; the first of its id wins and is returned."""
        await self._put_pages(report)
        made = await self.outbox.put(f"reports/{report.report_id}/report", report.SerializeToString(deterministic=True))
        first = await self.report(report.report_id)
        if not made and first != report:
            await self._put_pages(first)
        return first

    async def _put_pages(self, report: EvaluationReport) -> None:
        """What stands beside the report is made of the report alone, so whoever writes it last writes what it says."""
        from services.evaluator.report.page import render

        folder = f"reports/{report.report_id}"
        await self.blobs.put(f"{folder}/report.html", render(report).encode())
        failpoint("evaluator.page-stored")
        text = MessageToJson(report, preserving_proto_field_name=True, ensure_ascii=False, indent=1)
        await self.blobs.put(f"{folder}/report.json", text.encode())
        failpoint("evaluator.json-stored")
