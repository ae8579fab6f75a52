"""What a service keeps of what it has read is bounded, however much is read."""

from typing import Any, cast

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.registry_service_pb2 import ListAliasEntriesRequest, ListAliasEntriesResponse
from millstream.timestamps import now
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.dataprep import store as dataprep
from services.evaluator import clients
from services.evaluator import store as evaluator
from services.trainer import store as trainer

BOUND = 3
READ = 4 * BOUND


async def test_the_trainer_keeps_so_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "STATES"):
        monkeypatch.setattr(trainer, name, BOUND)
    blobs = MemoryBlobs()
    outbox = Outbox(blobs, MemoryBus(), "trainer", trainer.FACTS)
    writer, reader = trainer.Store(blobs, outbox, 10), trainer.Store(blobs, outbox, 10)
    for number in range(READ):
        run_id = f"run-{number}"
        await writer.create(RunRequest(run_id=run_id, spec=TrainingRunSpec(model="toy"), time=now()))
        await writer.end(RunOutcome(run_id=run_id, model="toy", state=TrainingRun.STATE_FAILED))
        assert await reader.fits(run_id, [TrainingRun.STATE_FAILED])
        await reader.listed_run(run_id)
    kept = {name: len(cast("Any", value)) for name, value in vars(reader).items() if hasattr(value, "__len__")}
    assert kept.keys() >= {"_requests", "_outcomes", "_states", "_ended"}
    assert max(kept.values()) <= BOUND, kept


async def test_the_evaluator_keeps_so_many_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "REPORTS", BOUND)
    blobs = MemoryBlobs()
    store = evaluator.Store(blobs, Outbox(blobs, None, "evaluator", evaluator.FACTS))
    for version in range(1, READ + 1):
        report_id = evaluator.report_id_of("toy", version, "snapshot", 0)
        report = EvaluationReport(report_id=report_id, model="toy", version=version, create_time=now())
        await blobs.put(f"{evaluator.folder_of(report_id)}/report", report.SerializeToString())
    assert len([report async for report in store.listed("toy")]) == READ
    assert len(store._known) <= BOUND


async def test_the_evaluator_keeps_the_moves_of_so_many_champions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Registry:
        async def ListAliasEntries(self, request: ListAliasEntriesRequest) -> ListAliasEntriesResponse:
            return ListAliasEntriesResponse()

    monkeypatch.setattr(clients, "MODELS", BOUND)
    reader = clients.Clients(cast("Any", Registry()), cast("Any", None))
    for number in range(READ):
        await reader.champion(f"model-{number}")
    assert len(reader._moves) <= BOUND


async def test_dataprep_keeps_so_many_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataprep, "LEDGERS", BOUND)
    blobs = MemoryBlobs()
    store = dataprep.Store(blobs, Outbox(blobs, None, "dataprep", dataprep.FACTS))
    for number in range(READ):
        await store.snapshots(f"dataset-{number}").count()
    assert cast("Any", store)._ledger.cache_info().currsize <= BOUND
