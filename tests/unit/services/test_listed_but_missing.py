"""A listing may show a key that was never stored (see Blobs.list): no service takes it for a fact or blocks on it."""

from typing import Any, cast

import pytest

from millstream.dataset.v1.dataset_service_pb2 import ListDatasetsRequest
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import NotFound
from millstream.training.v1.attempt_pb2 import RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRunSpec
from millstream.training.v1.training_service_pb2 import (
    CreateTrainingRunRequest,
    ListTrainingRunsRequest,
    ReadTrainingLogRequest,
)
from recipekit.catalog import Catalog
from servicekit.blobs.faulty import list_in_vain
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.dataprep.reconcile import ImportKey
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.service import TrainingService
from services.trainer.store import FACTS, Store
from tests.unit.trainer.test_automatic import Dataprep, Registry
from tests.worlds.dataprep import World, sample
from tests.worlds.training import NoLauncher

RUN = "run-1"


class Trainer:
    def __init__(self, blobs: MemoryBlobs) -> None:
        self.store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
        self.launcher = NoLauncher()
        self.bring = BringToOutcome(self.store, self.launcher, cast("Any", None), slots=1, time_limit_seconds=60)
        registry, dataprep = cast("Any", Registry()), cast("Any", Dataprep())
        self.service = TrainingService(
            self.store, cast("Any", NoLauncher()), registry, dataprep, Catalog(["tests.recipes"])
        )

    async def runs(self) -> list[str]:
        return [run.run_id for run in (await self.service.ListTrainingRuns(ListTrainingRunsRequest())).runs]


async def test_a_run_that_is_listed_but_missing_is_no_run_and_can_be_created() -> None:
    trainer = Trainer(list_in_vain(MemoryBlobs(), lambda: [f"runs/requests/{RUN}"]))
    assert [name async for name in trainer.bring.pending()] == []
    with pytest.raises(NotFound):
        await trainer.bring.reconcile(RunKey(RUN))
    await trainer.bring.end(RunKey(RUN), NotFound("no training run"))
    assert await trainer.store.outcome(RUN) is None
    assert await trainer.runs() == []
    asked = CreateTrainingRunRequest(request_id=RUN, spec=TrainingRunSpec(model="toy"))
    assert (await trainer.service.CreateTrainingRun(asked)).run.run_id == RUN


async def test_a_log_chunk_that_is_listed_but_missing_is_skipped() -> None:
    trainer = Trainer(list_in_vain(MemoryBlobs(), lambda: [f"runs/attempts/{RUN}/0000000001/log/0000000002"]))
    await trainer.service.CreateTrainingRun(CreateTrainingRunRequest(request_id=RUN, spec=TrainingRunSpec(model="toy")))
    await trainer.store.add_log(RUN, 1, 1, b"step 1\n")
    read = trainer.service.ReadTrainingLog(ReadTrainingLogRequest(run_id=RUN))
    assert [answer.chunk async for answer in read] == [b"step 1\n"]


async def test_a_dataset_that_is_listed_but_missing_is_not_shown() -> None:
    async with World(list_in_vain(MemoryBlobs(), lambda: ["datasets/vain/spec/0000000001"])).running() as world:
        await world.do(sample())
        listed = await world.service.ListDatasets(ListDatasetsRequest())
        assert [dataset.name for dataset in listed.datasets] == ["words"]


async def test_an_import_that_is_listed_but_missing_gets_no_outcome() -> None:
    world = World(list_in_vain(MemoryBlobs(), lambda: ["datasets/words/imports/vain"]))
    assert [name async for name in world.imports.pending()] == []
    await world.imports.end(ImportKey("words", "vain"), NotFound("no import"))
    assert await world.store.outcome("words", "vain") is None


async def test_imports_beside_one_that_is_listed_but_missing_succeed() -> None:
    async with World(list_in_vain(MemoryBlobs(), lambda: ["datasets/words/imports/a-vain-one"])).running() as world:
        assert (await world.do(sample())).state == Import.STATE_SUCCEEDED


async def test_an_outcome_that_is_listed_but_missing_ends_no_import() -> None:
    world = World(list_in_vain(MemoryBlobs(), lambda: ["datasets/words/outcomes/first"]))
    await world.store.record(Import(request_id="first", dataset="words"))
    assert [name async for name in world.imports.pending()] == [ImportKey("words", "first")]


async def test_an_outcome_that_is_listed_but_missing_ends_no_run() -> None:
    trainer = Trainer(list_in_vain(MemoryBlobs(), lambda: [f"runs/outcomes/{RUN}"]))
    await trainer.service.CreateTrainingRun(CreateTrainingRunRequest(request_id=RUN, spec=TrainingRunSpec(model="toy")))
    assert [name async for name in trainer.bring.pending()] == [RunKey(RUN)]


async def test_an_automatic_run_beside_one_that_is_listed_but_missing_is_started() -> None:
    trainer = Trainer(list_in_vain(MemoryBlobs(), lambda: ["runs/requests/a-vain-one"]))
    spec = TrainingRunSpec(model="toy", dataset="words")
    await trainer.store.create(RunRequest(run_id=RUN, request_id=RUN, spec=spec, automatic=True))
    await trainer.bring.reconcile(RunKey(RUN))
    assert await trainer.store.outcome(RUN) is None
    assert trainer.launcher.launched == [RUN], "it runs"
