"""Reports are stored under their model; a report's name is a hash of what it compares."""

import pytest

from millstream.errors import InvalidArgument
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.evaluator.store import FACTS, Store, folder_of, report_id_of


class CountsReads(MemoryBlobs):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    async def get(self, key: str) -> bytes:
        self.reads.append(key)
        return await super().get(key)


def store_on(blobs: MemoryBlobs) -> Store:
    return Store(blobs, Outbox(blobs, MemoryBus(), "evaluator", FACTS))


def report(model: str, version: int, champion: int = 0, seconds: int = 0) -> EvaluationReport:
    report_id = report_id_of(model, version, "snapshot", champion)
    made = EvaluationReport(report_id=report_id, model=model, version=version, champion_version=champion)
    made.create_time.FromSeconds(seconds)
    return made


def test_a_report_id_gives_the_folder_of_its_report() -> None:
    report_id = report_id_of("toy", 12, "snapshot", 3)
    model, version, name = report_id.split(".")
    assert (model, version, len(name)) == ("toy", "12", 16)
    assert folder_of(report_id) == f"reports/toy/0000000012/{name}"
    others = [report_id_of("toy", 12, "snapshot", 4), report_id_of("toy", 12, "another", 3)]
    assert len({report_id, *others}) == 3, "another champion or snapshot is another comparison"


@pytest.mark.parametrize("report_id", ["", "toy", "toy.1", "toy.0.0123456789abcdef", "../x.1.0123456789abcdef"])
def test_a_malformed_report_id_is_refused(report_id: str) -> None:
    with pytest.raises(InvalidArgument, match="ListEvaluationReports"):
        folder_of(report_id)


async def test_listing_a_models_reports_reads_that_models_only_and_each_once() -> None:
    blobs = CountsReads()
    writer = store_on(blobs)
    mine = [report("toy", 1, seconds=1), report("toy", 2, seconds=2), report("toy", 2, champion=1, seconds=3)]
    for made in (*mine, report("toy-2", 1), report("another", 1)):
        await writer.put(made)
    # Attempts, and a page whose report is not stored yet, are no reports.
    await blobs.put(f"{folder_of(mine[0].report_id)}/attempts/0000000001/claim", b"")
    await blobs.put(f"{folder_of(report_id_of('toy', 9, 'snapshot', 0))}/report.html", b"")
    reader = store_on(blobs)
    blobs.reads.clear()
    assert await reader.reports("toy") == mine[::-1]
    assert await reader.reports("toy", 2) == mine[:0:-1]
    assert sorted(blobs.reads) == sorted(f"{folder_of(made.report_id)}/report" for made in mine)
