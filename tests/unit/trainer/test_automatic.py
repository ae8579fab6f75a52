"""Automatic training: which runs are requested, and which superseded."""

import asyncio
from typing import Any, cast

from google.protobuf.json_format import ParseDict

from millstream.dataset.v1.dataset_pb2 import ColumnReport, Snapshot
from millstream.dataset.v1.dataset_service_pb2 import GetSnapshotRequest, GetSnapshotResponse
from millstream.errors import NotFound
from millstream.registry.v1.model_pb2 import Model, ModelSpec
from millstream.registry.v1.registry_service_pb2 import (
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
)
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.automatic import AutomaticKey, TrainAutomatically, wanted_run
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.store import FACTS, Store
from tests.worlds.training import NoLauncher

SPEC = {"model": "toy", "recipe": "toy_words", "dataset": "words", "training": {"automatic": True}}


class Registry:
    def __init__(self, **change: Any) -> None:
        self.models: list[Model] = []
        self.apply(**change)

    def apply(self, **change: Any) -> None:
        spec = ParseDict({**SPEC, **change}, ModelSpec())
        number = 1 + max((int(model.etag) for model in self.models), default=0)
        self.models = [Model(name=spec.model, spec=spec, etag=str(number))]

    async def ListModels(self, request: ListModelsRequest) -> ListModelsResponse:
        await asyncio.sleep(0)
        return ListModelsResponse(models=self.models)

    async def GetModel(self, request: GetModelRequest) -> GetModelResponse:
        await asyncio.sleep(0)
        return GetModelResponse(model=self.models[0])


class Dataprep:
    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.columns: list[str] = []

    async def GetSnapshot(self, request: GetSnapshotRequest) -> GetSnapshotResponse:
        await asyncio.sleep(0)
        if not self.number:
            raise NotFound("no snapshot yet")
        number = request.number or self.number
        snapshot = Snapshot(dataset=request.dataset, number=number, snapshot_id=f"s{number}")
        snapshot.columns.extend(ColumnReport(name=name, kept=True) for name in self.columns)
        return GetSnapshotResponse(snapshot=snapshot)


def trainer(blobs: Blobs, registry: Registry, dataprep: Dataprep) -> tuple[Store, TrainAutomatically]:
    store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
    return store, TrainAutomatically(store, registry, dataprep)  # type: ignore[arg-type]


async def states(store: Store) -> dict[int, str]:
    """State by the dataset's number."""
    runs = [await store.run(run_id) for run_id in await store.index.newest_first()]
    return {run.spec.dataset_number: TrainingRun.State.Name(run.state).removeprefix("STATE_") for run in runs}


async def test_a_model_may_be_declared_before_its_data_and_is_trained_when_they_come() -> None:
    registry, dataprep = Registry(), Dataprep(0)
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    assert [name async for name in automatic.pending()] == [AutomaticKey("words", "toy")]
    assert await automatic.reconcile(AutomaticKey("words")) is None
    assert not await store.index.newest_first()
    dataprep.number = 1
    await automatic.reconcile(AutomaticKey("words"))
    assert await states(store) == {1: "PENDING"}


async def test_many_replicas_and_repeated_events_request_one_run() -> None:
    blobs, registry, dataprep = MemoryBlobs(), Registry(), Dataprep()
    replicas = [trainer(blobs, registry, dataprep) for _ in range(3)]
    await asyncio.gather(*(automatic.reconcile(AutomaticKey("words")) for _, automatic in replicas for _ in range(3)))
    assert len(await replicas[0][0].index.newest_first()) == 1


async def test_a_waiting_run_is_superseded_by_the_newest_snapshot_and_an_active_one_is_not() -> None:
    registry, dataprep = Registry(), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    await automatic.reconcile(AutomaticKey("words"))
    (active,) = await store.index.newest_first()
    await store.attempts(active).claim(1)
    for dataprep.number in (2, 3):
        await automatic.reconcile(AutomaticKey("words"))
    assert await states(store) == {1: "RUNNING", 2: "CANCELLED", 3: "PENDING"}
    (superseded,) = [o for run_id in await store.index.newest_first() if (o := await store.outcome(run_id))]
    assert "superseded" in superseded.reason


async def test_a_replica_that_read_an_old_snapshot_neither_requests_a_run_nor_cancels_the_newer() -> None:
    blobs, registry = MemoryBlobs(), Registry()
    store, ahead = trainer(blobs, registry, Dataprep(2))
    _, behind = trainer(blobs, registry, Dataprep(1))
    await ahead.reconcile(AutomaticKey("words"))
    await behind.reconcile(AutomaticKey("words"))
    assert await states(store) == {2: "PENDING"}


async def test_a_model_that_moves_to_another_dataset_is_trained_on_it_whatever_its_number() -> None:
    registry, dataprep = Registry(), Dataprep(5)
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    await automatic.reconcile(AutomaticKey("words"))
    registry.apply(dataset="reviews")
    dataprep.number = 1
    await automatic.reconcile(AutomaticKey("reviews"))
    assert await states(store) == {5: "CANCELLED", 1: "PENDING"}


async def test_a_replica_that_read_an_old_spec_neither_requests_a_run_nor_cancels_the_newer() -> None:
    blobs, old, new = MemoryBlobs(), Registry(), Registry()
    new.apply(dataset="reviews")
    store, ahead = trainer(blobs, new, Dataprep(1))
    _, behind = trainer(blobs, old, Dataprep(9))
    await ahead.reconcile(AutomaticKey("reviews"))
    await behind.reconcile(AutomaticKey("words"))
    assert await states(store) == {1: "PENDING"}


async def test_a_model_that_comes_back_is_trained_on_what_was_superseded_meanwhile() -> None:
    registry, dataprep = Registry(), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    for dataset in ("words", "reviews", "words", "reviews"):
        registry.apply(dataset=dataset)
        for _ in range(2):
            await automatic.reconcile(AutomaticKey(dataset))
        runs = [await store.run(run_id) for run_id in await store.index.newest_first()]
        (waiting,) = [run for run in runs if run.state == TrainingRun.STATE_PENDING]
        assert waiting.spec.dataset == dataset
    registry.apply(dataset="reviews", gate=[{"metric": "accuracy", "at_least": 0.9}])
    await automatic.reconcile(AutomaticKey("reviews"))
    assert len(await store.index.newest_first()) == 4, "a changed gate trains nothing again"


async def test_of_two_automatic_runs_of_one_model_one_is_active_and_the_other_waits_for_its_end() -> None:
    registry, dataprep = Registry(), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    launcher = NoLauncher()
    runs = BringToOutcome(store, launcher, cast("Any", None), slots=4, time_limit_seconds=60)
    await automatic.reconcile(AutomaticKey("words"))
    (active,) = await store.index.newest_first()
    await store.attempts(active).claim(1)
    dataprep.number = 2
    await automatic.reconcile(AutomaticKey("words"))
    (waiting,) = {*await store.index.newest_first()} - {active}
    by_hand = TrainingRunSpec(model="toy")
    await store.create(RunRequest(run_id="by-hand", spec=by_hand))
    for run_id in (waiting, "by-hand"):
        await runs.reconcile(RunKey(run_id))
    assert launcher.launched == ["by-hand"], "slots are free, but the model's automatic run is still active"
    await store.end(RunOutcome(run_id=active, model="toy", state=TrainingRun.STATE_SUCCEEDED))
    await runs.reconcile(RunKey(waiting))
    assert launcher.launched == ["by-hand", waiting]


async def test_a_changed_gate_or_time_limit_trains_nothing_and_a_changed_config_does() -> None:
    registry = Registry()
    store, automatic = trainer(MemoryBlobs(), registry, Dataprep())
    await automatic.reconcile(AutomaticKey("words"))
    registry.apply(gate=[{"metric": "accuracy", "at_least": 0.99}])
    await automatic.reconcile(AutomaticKey("words"))
    registry.apply(training={"automatic": True, "time_limit": "9s"})
    await automatic.reconcile(AutomaticKey("words"))
    assert len(await store.index.newest_first()) == 1
    registry.apply(config={"steps": 7})
    await automatic.reconcile(AutomaticKey("words"))
    assert len(await store.index.newest_first()) == 2


async def test_cancelled_stays_cancelled() -> None:
    registry, dataprep = Registry(), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    await automatic.reconcile(AutomaticKey("words"))
    (run_id,) = await store.index.newest_first()
    reason = "superseded by run of next week"
    cancelled = RunOutcome(run_id=run_id, model="toy", state=TrainingRun.STATE_CANCELLED, reason=reason, actor="ada")
    assert await store.end(cancelled)
    await automatic.reconcile(AutomaticKey("words"))
    assert await states(store) == {1: "CANCELLED"}


async def test_the_minimum_interval_holds_the_next_run_back() -> None:
    registry, dataprep = Registry(training={"automatic": True, "minimum_interval": "3600s"}), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    assert await automatic.reconcile(AutomaticKey("words")) is None
    dataprep.number = 2
    wait = await automatic.reconcile(AutomaticKey("words"))
    assert wait and 3000 < wait <= 3600
    assert await states(store) == {1: "PENDING"}


async def test_a_model_without_automatic_training_is_left_alone() -> None:
    registry = Registry(training={"automatic": False})
    store, automatic = trainer(MemoryBlobs(), registry, Dataprep())
    assert not [name async for name in automatic.pending()]
    await automatic.reconcile(AutomaticKey("words"))
    assert not await store.index.newest_first()


async def test_a_run_that_waits_for_gpus_gives_way_once_the_model_asks_for_none() -> None:
    registry, dataprep = Registry(training={"automatic": True, "resources": {"gpus": 8}}), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    await automatic.reconcile(AutomaticKey(registry.models[0].spec.dataset))
    registry.apply(training={"automatic": True})
    await automatic.reconcile(AutomaticKey(registry.models[0].spec.dataset))
    newest, waiting = [await store.run(run_id) for run_id in await store.index.newest_first()]
    assert (newest.state, newest.spec.resources.gpus) == (TrainingRun.STATE_PENDING, 0)
    assert waiting.state == TrainingRun.STATE_CANCELLED


def test_a_runs_id_names_what_decides_the_result() -> None:
    def run_id(number: int = 1, **change: Any) -> str:
        spec = ParseDict({**SPEC, **change}, ModelSpec())
        return wanted_run(Model(name="toy", spec=spec, etag="1"), Snapshot(dataset="words", number=number)).run_id

    assert run_id() == run_id() == run_id(promotion={"automatic": True})
    assert len({run_id(), run_id(2), run_id(preset="toy"), run_id(config={"seed": 1}), run_id(recipe="other")}) == 5


async def test_a_run_that_has_begun_or_ended_is_not_made_again_for_other_resources() -> None:
    registry, dataprep = Registry(training={"automatic": True, "resources": {"gpus": 1}}), Dataprep()
    store, automatic = trainer(MemoryBlobs(), registry, dataprep)
    await automatic.reconcile(AutomaticKey("words"))
    (run_id,) = await store.index.newest_first()
    assert await store.attempts(run_id).claim(1)
    registry.apply(training={"automatic": True, "resources": {"gpus": 2}})
    await automatic.reconcile(AutomaticKey("words"))
    assert await store.index.newest_first() == [run_id]
    await store.end(RunOutcome(run_id=run_id, model="toy", state=TrainingRun.STATE_SUCCEEDED))
    await automatic.reconcile(AutomaticKey("words"))
    assert await store.index.newest_first() == [run_id], "hours of a GPU for the same bits"


async def test_a_run_for_an_older_snapshot_that_was_asked_for_at_once_is_superseded() -> None:
    """Two tasks or replicas: one has read the older snapshot, and stores its run when the newer one's is there."""
    blobs, registry = MemoryBlobs(), Registry()
    store, behind = trainer(blobs, registry, Dataprep(1))
    _, ahead = trainer(blobs, registry, Dataprep(2))
    create = store.create

    async def create_late(request: RunRequest) -> bool:
        await ahead.reconcile(AutomaticKey("words"))
        return await create(request)

    store.create = create_late  # type: ignore[method-assign]
    await behind.reconcile(AutomaticKey("words"))
    assert await states(store) == {1: "CANCELLED", 2: "PENDING"}


async def test_a_snapshot_stays_open_while_a_model_that_may_use_it_is_damaged() -> None:
    registry = Registry()
    store, automatic = trainer(MemoryBlobs(), registry, Dataprep())
    registry.models = [Model(name="toy", problem="models/toy/spec/0000000001 is damaged")]
    assert await automatic.reconcile(AutomaticKey("words")) == 30
    registry.models.clear()
    registry.apply()
    assert await automatic.reconcile(AutomaticKey("words")) is None
    assert await states(store) == {1: "PENDING"}
