"""TrainingService: message in, message out."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.dataset_service_pb2 import GetSnapshotRequest
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound
from millstream.registry.v1.registry_service_pb2 import GetModelRequest
from millstream.states import RUN_ENDED, word_of
from millstream.timestamps import now
from millstream.training.v1 import training_service_pb2 as rpc
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from recipekit.catalog import Catalog
from recipekit.spec import BadConfig
from servicekit.concurrency import in_order
from servicekit.ids import check_request_id
from servicekit.limits import check_reason, check_spec_size
from servicekit.paging import message_page, trimmed
from servicekit.processes import this_process
from servicekit.rpc.caller import actor
from servicekit.structs import mapping_of
from services.trainer.automatic import run_spec
from services.trainer.columns import check_columns
from services.trainer.launchers.port import Launcher
from services.trainer.metrics import RUNS_ENDED
from services.trainer.store import Store

if TYPE_CHECKING:
    from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub


POLL_SECONDS = 0.2
"""Between two reads of what a caller watches."""


class TrainingService:
    """Requests, reads and cancels runs; the training itself is the reconciler's."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        registry: "RegistryServiceAsyncStub",
        dataprep: "DatasetServiceAsyncStub",
        catalog: Catalog,
    ) -> None:
        self.store, self.launcher, self.catalog = store, launcher, catalog
        self.registry, self.dataprep = registry, dataprep

    async def CreateTrainingRun(self, request: rpc.CreateTrainingRunRequest) -> rpc.CreateTrainingRunResponse:
        """The run of this request_id.

        Raises InvalidArgument, NotFound for the model or its snapshot, FailedPrecondition if the recipe needs other columns
        or no worker can have the resources, Unavailable.
        """
        run_id = check_request_id(request.request_id)
        check_spec_size(request.spec)
        try:
            stored = await self.store.request(run_id)
        except NotFound:
            filled_in = await self._filled_in(run_id, request.spec)
            await self.launcher.check(filled_in.spec.resources)
            await self.store.create(filled_in)
            stored = await self.store.request(run_id)
        if stored.asked != request.spec:
            text = f"request_id {run_id} was used before for another training run: send a new one"
            raise InvalidArgument(text, field="request_id")
        return rpc.CreateTrainingRunResponse(run=await self._shown(run_id))

    async def GetTrainingRun(self, request: rpc.GetTrainingRunRequest) -> rpc.GetTrainingRunResponse:
        """Raises NotFound."""
        return rpc.GetTrainingRunResponse(run=await self._shown(request.run_id))

    async def ListTrainingRuns(self, request: rpc.ListTrainingRunsRequest) -> rpc.ListTrainingRunsResponse:
        """Newest first."""
        run_ids = await self.store.index.newest_first(request.model)
        if request.states:
            run_ids = await self._of_states(run_ids, request.states)
        shown, token = await message_page(run_ids, request, str, self._listed)
        return rpc.ListTrainingRunsResponse(runs=shown, next_page_token=token)

    async def _shown(self, run_id: str) -> TrainingRun:
        """The run, and why it waits if no worker can have what it asks for, such as an automatic run."""
        return trimmed(await self._explained(await self.store.run(run_id)))

    async def _listed(self, run_id: str) -> TrainingRun:
        return await self._explained(await self.store.listed_run(run_id))

    async def _explained(self, run: TrainingRun) -> TrainingRun:
        if run.state == TrainingRun.STATE_PENDING:
            try:
                await self.launcher.check(run.spec.resources)
            except FailedPrecondition as error:
                run.reason = f"waits: {error.text}"
        return run

    async def _of_states(
        self, run_ids: Sequence[str], states: Collection["TrainingRun.State.ValueType"]
    ) -> Sequence[str]:
        fits = [fitting async for fitting in in_order(lambda run_id: self.store.fits(run_id, states), run_ids)]
        return [run_id for run_id, fitting in zip(run_ids, fits, strict=True) if fitting]

    async def WatchTrainingRun(
        self, request: rpc.WatchTrainingRunRequest
    ) -> AsyncIterator[rpc.WatchTrainingRunResponse]:
        """Each change of the run, until it has an outcome. Raises NotFound."""
        before = TrainingRun()
        while before.state not in RUN_ENDED:
            run = await self._shown(request.run_id)
            if run != before:
                yield rpc.WatchTrainingRunResponse(run=run)
                before = run
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def CancelTrainingRun(self, request: rpc.CancelTrainingRunRequest) -> rpc.CancelTrainingRunResponse:
        """Idempotent. Raises NotFound, or FailedPrecondition when the run has another outcome already."""
        check_reason(request.reason)
        stored = await self.store.request(request.run_id)
        outcome = RunOutcome(run_id=request.run_id, model=stored.spec.model, state=TrainingRun.STATE_CANCELLED)
        outcome.reason, outcome.actor = request.reason or "cancelled on request", actor()
        if await self.store.end(outcome):
            RUNS_ENDED.labels("cancelled").inc()
            await self.launcher.stop(request.run_id)
        run = await self.store.run(request.run_id)
        if run.state != TrainingRun.STATE_CANCELLED:
            state = word_of(TrainingRun.State, run.state)
            raise FailedPrecondition(f"run {run.run_id} has {state} already", run_id=run.run_id)
        return rpc.CancelTrainingRunResponse(run=trimmed(run))

    async def ReadTrainingLog(self, request: rpc.ReadTrainingLogRequest) -> AsyncIterator[rpc.ReadTrainingLogResponse]:
        """The chunks of all attempts; with `follow` until the run has an outcome. Raises NotFound."""
        await self.store.request(request.run_id)
        place = ""
        while True:
            ended = await self.store.outcome(request.run_id)
            async for key, attempt, chunk in self.store.log(request.run_id, place):
                place = key
                yield rpc.ReadTrainingLogResponse(attempt=attempt, chunk=chunk)
            if ended or not request.follow:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _filled_in(self, run_id: str, asked: TrainingRunSpec) -> RunRequest:
        """The request, completed from the model's own spec where the caller left a field out."""
        model = (await self.registry.GetModel(GetModelRequest(model=asked.model))).model
        snapshot_request = GetSnapshotRequest(dataset=asked.dataset or model.spec.dataset, number=asked.dataset_number)
        snapshot = (await self.dataprep.GetSnapshot(snapshot_request)).snapshot
        spec = run_spec(model, snapshot)
        if asked.recipe and asked.recipe != spec.recipe:
            raise InvalidArgument(
                f"the recipe of {asked.model} is {spec.recipe}: leave recipe out", field="spec.recipe"
            )
        if asked.preset or asked.HasField("config"):
            # The model's own overrides belong to its own preset.
            spec.preset = asked.preset or spec.preset
            spec.config.CopyFrom(asked.config)
        if asked.HasField("resources"):
            spec.resources.CopyFrom(asked.resources)
        if asked.HasField("time_limit"):
            spec.time_limit.CopyFrom(asked.time_limit)
        self._check(spec, snapshot)
        return RunRequest(
            run_id=run_id, request_id=run_id, spec=spec, asked=asked, snapshot=snapshot, time=now(), actor=actor()
        )

    def _check(self, spec: TrainingRunSpec, snapshot: Snapshot) -> None:
        try:
            self.catalog.configure(spec.recipe, spec.preset, mapping_of(spec.config, "spec.config"))
        except BadConfig as error:
            field = f"spec.{error.field}"
            if error.field == "recipe":
                # The registry knows the recipe, so it is this trainer that lacks it.
                text = f"{error} (trainer on {this_process().host}): set MILLSTREAM_RECIPES alike on all services"
                raise FailedPrecondition(text, field=field) from None
            raise InvalidArgument(f"spec.{error}", field=field) from None
        check_columns(self.catalog.spec(spec.recipe), snapshot)
        if spec.HasField("time_limit") and spec.time_limit.ToNanoseconds() <= 0:
            raise InvalidArgument("spec.time_limit must be above 0 s", field="spec.time_limit")
