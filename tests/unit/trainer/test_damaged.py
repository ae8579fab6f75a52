"""A damaged object of one run hurts that run, and no other."""

from typing import Any, cast

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from millstream.errors import DataLoss
from millstream.operations.v1.stored_pb2 import Claim
from millstream.registry.v1.model_pb2 import Model, ModelSpec
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun, TrainingRunSpec
from millstream.training.v1.training_service_pb2 import GetTrainingRunRequest, ListTrainingRunsRequest
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.automatic import AutomaticKey, TrainAutomatically
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.service import TrainingService
from services.trainer.store import FACTS, Store
from services.trainer.trouble import is_trouble
from tests.unit.trainer.test_automatic import SPEC, Dataprep, Registry
from tests.worlds.damage import halved
from tests.worlds.training import NoLauncher

HURT, WELL = "hurt-run", "well-run"
SUCCEEDED = TrainingRun.STATE_SUCCEEDED


class Trainer:
    """A replica that has just started: it has read nothing yet."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs, self.bus = blobs, MemoryBus()
        self.store = Store(blobs, Outbox(blobs, self.bus, "trainer", FACTS), 10)
        self.launcher = NoLauncher()
        self.bring = BringToOutcome(self.store, self.launcher, cast("Any", None), slots=2, time_limit_seconds=60)
        registry, dataprep = cast("Any", Registry()), cast("Any", Dataprep())
        catalog = Catalog(["tests.recipes"])
        self.service = TrainingService(self.store, cast("Any", self.launcher), registry, dataprep, catalog)

    async def request(self, run_id: str, model: str) -> None:
        spec = TrainingRunSpec(model=model, dataset="words")
        request = RunRequest(run_id=run_id, request_id=run_id, spec=spec, automatic=True, actor="trainer")
        request.time.seconds = len(run_id)
        await self.store.create(request)

    async def listed(self, **asked: Any) -> dict[str, TrainingRun]:
        found = await self.service.ListTrainingRuns(ListTrainingRunsRequest(**asked))
        return {run.run_id: run for run in found.runs}


async def two_runs(*, ended: bool = False) -> Trainer:
    trainer = Trainer(MemoryBlobs())
    for run_id, model in ((HURT, "hurt"), (WELL, "well")):
        await trainer.request(run_id, model)
        if ended:
            assert await trainer.store.attempts(run_id).claim(1)
            await trainer.store.report(run_id, 1, RunProgress(step=7, total_steps=7))
            await trainer.store.end(
                RunOutcome(run_id=run_id, model=model, state=SUCCEEDED, reason="done, and well done")
            )
    return Trainer(trainer.blobs)


async def test_a_run_whose_request_is_damaged_is_listed_with_its_key_until_it_is_restored() -> None:
    trainer = await two_runs()
    key = f"runs/requests/{HURT}"
    async with halved(trainer.blobs, key, RunRequest):
        runs = await trainer.listed()
        assert list(runs) == [WELL, HURT]
        assert runs[HURT].state == TrainingRun.STATE_UNSPECIFIED and key in runs[HURT].reason
        assert runs[WELL].state == TrainingRun.STATE_PENDING
        assert (list(await trainer.listed(model="well")), list(await trainer.listed(model="hurt"))) == ([WELL], [HURT])
        assert set(await trainer.listed(states=[TrainingRun.STATE_PENDING])) == {WELL}
        with pytest.raises(DataLoss, match=key):
            await trainer.service.GetTrainingRun(GetTrainingRunRequest(run_id=HURT))
        found = [one async for one in trainer.bring.pending()]
        assert {one for one in found if isinstance(one, RunKey)} == {RunKey(HURT), RunKey(WELL)}
        assert [key in str(one) for one in found[2:]] == [True]
        with pytest.raises(DataLoss, match=key):
            await trainer.bring.reconcile(RunKey(HURT))
        await trainer.bring.reconcile(RunKey(WELL))
        assert trainer.launcher.launched == [WELL], "the other run gets its worker"
    assert (await trainer.listed())[HURT].spec.model == "hurt"
    await trainer.bring.reconcile(RunKey(HURT))
    assert trainer.launcher.launched == [WELL, HURT]


async def test_a_run_whose_outcome_is_damaged_is_listed_without_a_state() -> None:
    trainer = await two_runs(ended=True)
    key = f"runs/outcomes/{HURT}"
    async with halved(trainer.blobs, key, RunOutcome):
        runs = await trainer.listed()
        assert (runs[HURT].state, runs[HURT].spec.model) == (TrainingRun.STATE_UNSPECIFIED, "hurt")
        assert key in runs[HURT].reason and runs[WELL].state == SUCCEEDED
        assert set(await trainer.listed(states=[SUCCEEDED])) == {WELL}
        (error,) = [found async for found in trainer.bring.pending()]
        assert isinstance(error, DataLoss) and key in str(error), "it is reported, and nothing trains it again"
    assert set(await trainer.listed(states=[SUCCEEDED])) == {WELL, HURT}


@pytest.mark.parametrize(("part", "kind"), [("claim", Claim), ("progress", RunProgress)])
async def test_a_run_that_has_ended_stays_ended_when_an_object_of_its_attempt_is_damaged(
    part: str, kind: type[Message]
) -> None:
    trainer = await two_runs(ended=True)
    async with halved(trainer.blobs, f"runs/attempts/{HURT}/0000000001/{part}", kind):
        assert (await trainer.listed())[HURT].state == SUCCEEDED
    assert (await trainer.listed())[HURT].HasField("start_time")


def automatic(trainer: Trainer, *models: str) -> TrainAutomatically:
    registry = Registry()
    specs = [ParseDict({**SPEC, "model": model}, ModelSpec()) for model in models]
    registry.models = [Model(name=spec.model, spec=spec, etag="1") for spec in specs]
    registry.models.append(Model(name="damaged", problem="models/damaged/spec/0000000001 is damaged"))
    return TrainAutomatically(trainer.store, cast("Any", registry), cast("Any", Dataprep()))


async def test_automatic_training_of_other_models_goes_on_beside_a_damaged_request() -> None:
    trainer = Trainer(MemoryBlobs())
    with_hurt = automatic(trainer, "hurt")
    await with_hurt.reconcile(AutomaticKey("words"))
    (hurt,) = await trainer.store.index.newest_first()
    await trainer.store.outbox.flush()
    trainer = Trainer(trainer.blobs)
    key = f"runs/requests/{hurt}"
    training = automatic(trainer, "hurt", "well")
    async with halved(trainer.blobs, key, RunRequest):
        keys = [one async for one in training.pending()]
        assert keys[:2] == [AutomaticKey("words", "hurt"), AutomaticKey("words", "well")]
        assert [str(one) for one in keys[2:]] == ["models/damaged/spec/0000000001 is damaged"]
        with pytest.raises(DataLoss, match=key):
            await training.reconcile(AutomaticKey("words"))
        (well,) = await trainer.store.index.newest_first("well")
        assert set(await trainer.store.index.newest_first()) == {hurt, well}
        await trainer.bring.reconcile(RunKey(well))
        assert trainer.launcher.launched == [well]
        await trainer.store.outbox.flush()
        assert trainer.store.outbox.parked == 0
    await training.reconcile(AutomaticKey("words"))
    assert len(await trainer.store.index.newest_first()) == 2, "the restored run is the one that was due"


def test_a_damaged_object_is_a_trouble_of_the_platform_and_not_a_failure_of_the_run() -> None:
    assert is_trouble(DataLoss("a/b is damaged"))
