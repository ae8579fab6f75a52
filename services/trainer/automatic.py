"""Automatic training: which run a model needs now, and which waiting ones it supersedes."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from typing_extensions import override

from millstream.client.aio.pages import pages
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.dataset_service_pb2 import GetSnapshotRequest
from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.registry.v1.model_pb2 import Model
from millstream.registry.v1.registry_service_pb2 import GetModelRequest, ListModelsRequest
from millstream.timestamps import now, seconds_of
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from servicekit.work.resync import LOOK_AGAIN_SECONDS
from services.trainer.metrics import RUNS_ENDED
from services.trainer.run_index import Order
from services.trainer.store import Store

if TYPE_CHECKING:
    from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub


log = logging.getLogger(__name__)
ACTOR = "trainer"
"""Who requests automatic runs, and supersedes them."""
SUPERSEDED = "superseded by run"
"""How the reason of such a run begins."""


@dataclass(frozen=True)
class AutomaticKey(Key):
    """The automatic runs of all models that use one dataset, or of one of them."""

    kind = "automatic"
    dataset: str
    model: str = ""


class TrainAutomatically(Reconciler[AutomaticKey]):
    """Every model with automatic training gets a run for the newest snapshot of its dataset, and for no older one."""

    kind = AutomaticKey.kind

    def __init__(self, store: Store, registry: "RegistryServiceAsyncStub", dataprep: "DatasetServiceAsyncStub") -> None:
        self.store, self.registry, self.dataprep = store, registry, dataprep

    @override
    async def pending(self) -> AsyncIterator[AutomaticKey | DataLoss]:
        models, damaged = await self._models()
        for model in models:
            yield AutomaticKey(model.spec.dataset, model.name)
        for problem in damaged:
            yield DataLoss(problem)

    @override
    async def reconcile(self, key: AutomaticKey) -> float | None:
        models, waits = await self._of_dataset(key)
        if not models:
            return min(waits, default=None)
        try:
            snapshot = (await self.dataprep.GetSnapshot(GetSnapshotRequest(dataset=key.dataset))).snapshot
        except NotFound:
            # A model may be declared before its data; the first snapshot's event comes back here.
            return None
        damaged: DataLoss | None = None
        for model in models:
            try:
                if (wait := await self._train(model, snapshot)) is not None:
                    waits.append(wait)
            except DataLoss as error:
                damaged = error  # of this model alone
        if damaged:
            raise damaged
        return min(waits, default=None)

    @override
    async def end(self, key: AutomaticKey, error: MillstreamError) -> bool:
        # There is nothing to end: the next resync tries again.
        log.error("automatic training failed", extra={"dataset": key.dataset, "error": str(error)})
        return False

    async def _train(self, model: Model, snapshot: Snapshot) -> float | None:
        """Request the run that is due and cancel those that it supersedes. Returns the seconds that the interval lasts."""
        wanted = wanted_run(model, snapshot)
        newest = await self.store.index.newest_automatic(model.name)
        if newest.order > order(wanted):
            return None
        while await self._is_replaced(wanted, following := wanted_run(model, snapshot, after=wanted.run_id)):
            wanted = following
        try:
            await self.store.request(wanted.run_id)
        except NotFound:
            wait = interval_left(model, newest.time, time.time())
            if wait > 0:
                return wait
            await self.store.create(wanted)
            failpoint("trainer.run-asked")
            newest = await self.store.index.newest_automatic(model.name)
            if newest.order > order(wanted):  # another task or replica was faster
                await self._supersede(wanted, await self.store.request(newest.run_id))
                return None
        await self._supersede_earlier(wanted)
        return None

    async def _supersede_earlier(self, wanted: RunRequest) -> None:
        for run_id in set(await self.store.open_run_ids(wanted.spec.model)) - {wanted.run_id}:
            with suppress(DataLoss):  # nobody knows what it follows
                request = await self.store.request(run_id)
                if request.automatic and order(request) < order(wanted):
                    await self._supersede(request, wanted)

    async def _is_replaced(self, wanted: RunRequest, following: RunRequest) -> bool:
        """Whether the run was superseded, such as when the model came back to what it asked for before, or is now, because
        it still waits and the model's resources have changed: it may wait for those that no machine has."""
        if await self._is_superseded(wanted.run_id):
            return True
        try:
            known = await self.store.request(wanted.run_id)
        except NotFound:
            return False
        if known.spec.resources == wanted.spec.resources:
            return False
        await self._supersede(known, following)
        return await self._is_superseded(wanted.run_id)

    async def _is_superseded(self, run_id: str) -> bool:
        outcome = await self.store.outcome(run_id)
        return outcome is not None and outcome.actor == ACTOR and outcome.reason.startswith(SUPERSEDED)

    async def _supersede(self, request: RunRequest, wanted: RunRequest) -> None:
        """Cancel a run, unless a worker has begun it."""
        if await self.store.outcome(request.run_id) or await self.store.attempts(request.run_id).newest():
            return
        reason = f"{SUPERSEDED} {wanted.run_id} on snapshot {wanted.spec.dataset_number} of {wanted.spec.dataset}"
        outcome = RunOutcome(run_id=request.run_id, model=request.spec.model, state=TrainingRun.STATE_CANCELLED)
        outcome.reason, outcome.actor = reason, ACTOR
        if await self.store.end(outcome):
            RUNS_ENDED.labels("cancelled").inc()

    async def _of_dataset(self, key: AutomaticKey) -> tuple[list[Model], list[float]]:
        """The models that the key names, as they are now, and the seconds to wait for one that may be, and is damaged."""
        if key.model:
            models, damaged = [(await self.registry.GetModel(GetModelRequest(model=key.model))).model], list[str]()
        else:
            models, damaged = await self._models()
        mine = [model for model in models if model.spec.dataset == key.dataset and model.spec.training.automatic]
        return mine, [LOOK_AGAIN_SECONDS] if damaged else []

    async def _models(self) -> tuple[list[Model], list[str]]:
        """All that are trained automatically, and the problem of each that is damaged, so that nobody knows."""
        models, damaged = list[Model](), list[str]()
        async for page in pages(self.registry.ListModels, ListModelsRequest(page_size=1000)):
            models += [model for model in page.models if model.spec.training.automatic]
            damaged += [model.problem for model in page.models if model.problem]
        return models, damaged


def wanted_run(model: Model, snapshot: Snapshot, after: str = "") -> RunRequest:
    """The run that a model's spec asks for on a snapshot. `after`: the equal run that was superseded before.

    Its id is a hash of what decides the result and of nothing else: a changed gate or time limit trains nothing again, and a
    run that a caller cancelled stays cancelled.
    """
    spec = model.spec
    config = json.dumps(MessageToDict(spec.config), sort_keys=True)
    parts = ("automatic", model.name, spec.recipe, spec.preset, config, spec.dataset, snapshot.number)
    run_id = hash_of(*parts, after) if after else hash_of(*parts)
    run = RunRequest(run_id=run_id, request_id=run_id, spec=run_spec(model, snapshot), time=now(), actor=ACTOR)
    run.automatic, run.model_spec_number = True, int(model.etag)
    run.snapshot.CopyFrom(snapshot)
    return run


def run_spec(model: Model, snapshot: Snapshot) -> TrainingRunSpec:
    """What a model's own spec trains on a snapshot."""
    spec = model.spec
    run = TrainingRunSpec(model=model.name, recipe=spec.recipe, preset=spec.preset, config=spec.config)
    run.dataset, run.dataset_number, run.snapshot_id = snapshot.dataset, snapshot.number, snapshot.snapshot_id
    run.resources.CopyFrom(spec.training.resources)
    if spec.training.HasField("time_limit"):
        run.time_limit.CopyFrom(spec.training.time_limit)
    return run


def order(request: RunRequest) -> Order:
    """The order of a model's automatic runs: a replica that read an old spec or snapshot must not supersede a newer run.

    The spec comes first: only one spec names one dataset, and snapshots of two datasets have no order.
    """
    return request.model_spec_number, request.spec.dataset_number


def interval_left(model: Model, newest: float, at: float) -> float:
    """Seconds until the model's minimum interval since its newest automatic run, requested then, has passed; 0: it has."""
    interval = seconds_of(model.spec.training.minimum_interval)
    return max(0.0, newest + interval - at) if interval and newest else 0.0
