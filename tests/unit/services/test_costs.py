"""What a call or a resync costs follows what it answers and what is open, and not how much there ever was."""

import base64
from typing import Any, cast

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest, ListEvaluationReportsResponse
from millstream.registry.v1.events_pb2 import ModelApplied
from millstream.registry.v1.model_pb2 import ModelSpec
from millstream.registry.v1.registry_service_pb2 import ApplyModelRequest, GetModelRequest, ListModelsRequest
from millstream.timestamps import now
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from millstream.training.v1.training_service_pb2 import ListTrainingRunsRequest
from servicekit.bus.memory import MemoryBus
from servicekit.facts.open_work import OpenWork
from servicekit.facts.outbox import Outbox
from services.evaluator.service import EvaluationService
from services.evaluator.store import FACTS as EVALUATOR_FACTS
from services.evaluator.store import Store as EvaluatorStore
from services.evaluator.store import folder_of, report_id_of
from services.registry.reconcile import VersionKey
from services.registry.service import RegistryService
from services.registry.store import FACTS as REGISTRY_FACTS
from services.registry.store import Store as RegistryStore
from services.trainer.automatic import AutomaticKey, TrainAutomatically
from services.trainer.handlers import HANDLERS
from services.trainer.reconcile import BringToOutcome, RunKey
from services.trainer.service import TrainingService
from services.trainer.store import FACTS, Store
from tests.unit.trainer.test_automatic import Dataprep, Registry
from tests.worlds.counting import CountingBlobs
from tests.worlds.dataprep import World, sample
from tests.worlds.registry import SPEC, registry
from tests.worlds.registry import Evaluator as RegistryEvaluator
from tests.worlds.registry import Trainer as RegistryTrainer
from tests.worlds.training import NoLauncher

SUCCEEDED = TrainingRun.STATE_SUCCEEDED


class Trainer:
    """A trainer whose process has just started, on a store with so many runs that have ended."""

    def __init__(self, blobs: CountingBlobs) -> None:
        self.blobs = blobs
        self.store = Store(blobs, Outbox(blobs, None, "trainer", FACTS), 10)
        self.service = TrainingService(self.store, cast("Any", NoLauncher()), *cast("Any", (None, None, None)))

    @classmethod
    async def after(cls, runs: int) -> "Trainer":
        blobs = CountingBlobs()
        store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
        bring = BringToOutcome(store, NoLauncher(), cast("Any", None), slots=1, time_limit_seconds=60)
        work = OpenWork(blobs, "trainer")
        for number in range(runs):
            run_id, spec = f"run-{number}", TrainingRunSpec(model=f"model-{number % 2}", dataset="words")
            await store.create(RunRequest(run_id=run_id, spec=spec, time=now(), automatic=True))
            await store.end(RunOutcome(run_id=run_id, model=spec.model, state=SUCCEEDED))
            await bring.reconcile(RunKey(run_id))
            await store.outbox.flush()
        for fact in await work.facts():
            await work.done(fact.marker_id)
        return cls(blobs)

    async def cost(self, **request: Any) -> int:
        """Calls to the store of one page of five runs, once another page was shown."""
        await self.service.ListTrainingRuns(ListTrainingRunsRequest(page_size=5, **request))
        self.blobs.calls.clear()
        await self.service.ListTrainingRuns(ListTrainingRunsRequest(page_size=5, **request))
        return self.blobs.calls.total()


@pytest.mark.parametrize("asked", [{}, {"model": "model-1"}, {"states": [SUCCEEDED]}], ids=["all", "model", "state"])
async def test_a_page_of_runs_costs_the_same_however_many_there_are(asked: dict[str, Any]) -> None:
    few, many = await Trainer.after(20), await Trainer.after(600)
    assert await few.cost(**asked) == await many.cost(**asked) <= 2


async def test_a_trainer_that_starts_shows_a_page_of_many_runs_by_their_blocks() -> None:
    many = await Trainer.after(600)
    many.blobs.calls.clear()
    shown = (await many.service.ListTrainingRuns(ListTrainingRunsRequest(page_size=5))).runs
    assert [run.run_id for run in shown] == [f"run-{number}" for number in range(599, 594, -1)]
    assert many.blobs.calls["get ledger-blocks"] == 2
    assert many.blobs.calls.total() < 150, many.blobs.calls


async def test_which_runs_are_open_costs_what_is_open() -> None:
    many = await Trainer.after(600)
    await many.store.create(RunRequest(run_id="open", spec=TrainingRunSpec(model="toy"), time=now()))
    many.blobs.calls.clear()
    assert await many.store.open_run_ids() == ["open"]
    assert many.blobs.calls.total() <= 4, many.blobs.calls


async def test_an_automatic_run_costs_the_same_however_many_there_were() -> None:
    costs = []
    for runs in (20, 600):
        trainer = await Trainer.after(runs)
        registry = Registry(model="model-1")
        automatic = TrainAutomatically(trainer.store, cast("Any", registry), cast("Any", Dataprep()))
        await trainer.store.index.newest_first()
        trainer.blobs.calls.clear()
        await automatic.reconcile(AutomaticKey("words"))
        costs.append(trainer.blobs.calls.total())
    assert costs[0] == costs[1] <= 16


async def test_a_run_that_is_not_in_the_index_is_added_by_its_reconcile_or_by_a_comparison() -> None:
    """Its writer died after it stored the request, or an older version wrote it."""
    blobs = CountingBlobs()
    for run_id in ("died", "old"):
        request = RunRequest(run_id=run_id, spec=TrainingRunSpec(model="toy"), time=now())
        await blobs.put(f"runs/requests/{run_id}", request.SerializeToString())
    store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
    bring = BringToOutcome(store, NoLauncher(), cast("Any", None), slots=1, time_limit_seconds=60)
    assert await store.index.newest_first() == [] and await store.open_run_ids() == []
    await bring.reconcile(RunKey("died"))
    assert await store.index.newest_first() == ["died"]
    assert {key async for key in bring.pending()} == {RunKey("died"), RunKey("old")}
    assert await store.index.newest_first("toy") == ["old", "died"]
    assert await store.open_run_ids() == ["died", "old"], "a resync finds them from now on"


async def test_an_import_whose_turn_it_is_not_costs_a_few_looks_however_many_wait() -> None:
    blobs = CountingBlobs()
    world = World(blobs)
    for number in range(30):
        await world.ask(sample(5), request_id=f"r{number:02d}")
    last = await world.store.requested("words", "r29")
    await world.store.imports_before(last)
    blobs.calls.clear()
    assert await world.store.imports_before(last) == 29
    assert blobs.calls.total() <= 3, blobs.calls


async def test_another_automatic_run_of_the_model_is_looked_for_among_its_own() -> None:
    blobs = CountingBlobs()
    store = Store(blobs, Outbox(blobs, None, "trainer", FACTS), 10)
    for number in range(30):
        spec = TrainingRunSpec(model=f"model-{number}")
        await store.create(RunRequest(run_id=f"run-{number}", spec=spec, time=now(), automatic=True))
    await store.open_run_ids()
    blobs.calls.clear()
    assert await store.open_run_ids("model-7") == ["run-7"]
    assert blobs.calls.total() == 2, blobs.calls


class Evaluator:
    """An evaluator that has just started, on a store with two reports on each version of a model."""

    def __init__(self, blobs: CountingBlobs) -> None:
        self.blobs = blobs
        store = EvaluatorStore(blobs, Outbox(blobs, None, "evaluator", EVALUATOR_FACTS))
        self.service = EvaluationService(store, *cast("Any", (None, None)))

    @classmethod
    async def after(cls, versions: int) -> "Evaluator":
        blobs = CountingBlobs()
        store = EvaluatorStore(blobs, Outbox(blobs, MemoryBus(), "evaluator", EVALUATOR_FACTS))
        for version in range(1, versions + 1):
            for champion in (0, 1):
                report_id = report_id_of("toy", version, "snapshot", champion)
                report = EvaluationReport(report_id=report_id, model="toy", version=version, create_time=now())
                await blobs.put(f"{folder_of(report_id)}/report", report.SerializeToString())
        await store.outbox.flush()
        return cls(blobs)

    async def page(self, token: str = "") -> ListEvaluationReportsResponse:
        request = ListEvaluationReportsRequest(model="toy", page_size=7, page_token=token)
        return await self.service.ListEvaluationReports(request)


async def test_a_page_of_reports_costs_the_same_however_many_versions_there_are() -> None:
    costs = []
    for versions in (40, 600):
        evaluator = await Evaluator.after(versions)
        second = (await evaluator.page()).next_page_token
        evaluator.blobs.calls.clear()
        assert (await evaluator.page(second)).reports[0].version == versions - 3
        costs.append(evaluator.blobs.calls.total())
    assert costs[0] == costs[1] <= 40, costs


async def test_page_after_page_names_each_report_once_of_the_newest_version_first() -> None:
    evaluator = await Evaluator.after(40)
    found, token = [], ""
    while True:
        page = await evaluator.page(token)
        found += [(report.version, report.report_id) for report in page.reports]
        token = page.next_page_token
        if not token:
            break
    assert len(set(found)) == len(found) == 80
    assert [version for version, _ in found] == sorted((version for version, _ in found), reverse=True)


async def test_a_page_of_large_reports_reads_what_it_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("servicekit.paging", "services.evaluator.service"):
        monkeypatch.setattr(f"{module}.PAGE_BYTES", 300)  # some six of these reports
    evaluator = await Evaluator.after(200)
    found, token = [], ""
    while True:
        request = ListEvaluationReportsRequest(model="toy", page_size=1000, page_token=token)
        evaluator.blobs.calls.clear()
        page = await evaluator.service.ListEvaluationReports(request)
        assert evaluator.blobs.calls["get reports"] <= 32
        found += [report.report_id for report in page.reports]
        token = page.next_page_token
        if not token:
            break
    assert len(set(found)) == len(found) == 400


@pytest.mark.parametrize("last", ["toy.41.0123456789abcdef", "toy.7.0123456789abcdef", "another", "\udcff"])
async def test_a_token_of_another_listing_is_refused_before_all_is_read(last: str) -> None:
    evaluator = await Evaluator.after(40)
    token = base64.urlsafe_b64encode(last.encode("utf-8", "surrogateescape")).decode()
    evaluator.blobs.calls.clear()
    with pytest.raises(InvalidArgument, match="page_token"):
        await evaluator.page(token)
    assert evaluator.blobs.calls["get reports"] <= 32, "two batches of the versions below it"


async def registry_of(models: int) -> tuple[CountingBlobs, RegistryService]:
    blobs = CountingBlobs()
    store = RegistryStore(blobs, Outbox(blobs, MemoryBus(), "registry", REGISTRY_FACTS))
    for number in range(models):
        name = f"model-{number:04d}"
        await store.specs(name).append(ModelSpec(model=name), request_id=name, actor="test")
    await store.outbox.flush()
    fresh = RegistryStore(blobs, Outbox(blobs, None, "registry", REGISTRY_FACTS))
    return blobs, RegistryService(fresh, *cast("Any", (None, None)))


async def test_a_page_of_models_costs_the_same_however_many_there_are() -> None:
    costs = []
    for models in (20, 600):
        blobs, service = await registry_of(models)
        blobs.calls.clear()
        assert len((await service.ListModels(ListModelsRequest(page_size=5))).models) == 5
        costs.append(blobs.calls.total())
    assert costs[0] == costs[1], costs


async def test_a_model_that_does_not_exist_costs_a_look_and_names_a_few_that_do() -> None:
    blobs, service = await registry_of(600)
    blobs.calls.clear()
    with pytest.raises(NotFound) as raised:
        await service.GetModel(GetModelRequest(model="nosuch"))
    assert "there are: model-0000, model-0001, " in str(raised.value) and "model-0019 and others" in str(raised.value)
    assert blobs.calls.total() <= 2, blobs.calls


async def test_a_comparison_asks_the_store_once_a_model_for_a_page_of_runs() -> None:
    costs = []
    for runs in (5, 400):
        blobs, ids = CountingBlobs(), [f"run-{number}" for number in range(runs)]
        replica = registry(blobs, RegistryTrainer(*ids), RegistryEvaluator())
        await replica.service.ApplyModel(ApplyModelRequest(spec=ParseDict(SPEC, ModelSpec())))
        await replica.register.reconcile(VersionKey(ids[0]))
        blobs.calls.clear()
        assert [key async for key in replica.register.pending()] == [VersionKey(run_id) for run_id in ids[1:]]
        costs.append(blobs.calls.total())
    assert costs[0] == costs[1] <= 2, costs


async def test_a_model_that_was_applied_is_asked_for_alone() -> None:
    class OneModel(Registry):
        async def ListModels(self, request: ListModelsRequest) -> Any:
            raise AssertionError("all models were listed for a change of one")

    (key,) = HANDLERS[ModelApplied](ModelApplied(model="toy", dataset="words"))
    store = Store(blobs := CountingBlobs(), Outbox(blobs, None, "trainer", FACTS), 10)
    automatic = TrainAutomatically(store, cast("Any", OneModel(model="toy")), cast("Any", Dataprep()))
    await automatic.reconcile(cast("AutomaticKey", key))
    assert len(await store.open_run_ids("toy")) == 1
