"""Objects that older versions accepted, larger than a message may be, hurt nobody: read over a real server, as peers do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue
from grpc import aio

from millstream.channel import MAX_MESSAGE_BYTES, open_channel
from millstream.client.aio.pages import pages
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1 import dataset_service_pb2_grpc as dataset_grpc
from millstream.dataset.v1.dataset_pb2 import ColumnReport, DatasetPart, DatasetSpec, Snapshot
from millstream.evaluation.v1 import evaluation_service_pb2 as evaluation
from millstream.evaluation.v1 import evaluation_service_pb2_grpc as evaluation_grpc
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, ReportTable
from millstream.operations.v1.stored_pb2 import LedgerEntry
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1 import registry_service_pb2_grpc as registry_grpc
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelSpec, ModelVersion
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1 import training_service_pb2_grpc as training_grpc
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile, TrainingRun, TrainingRunSpec
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.rpc.auth import Tokens
from servicekit.rpc.interceptor import ServerInterceptor, WithoutContext
from servicekit.rpc.server import open_server
from services.evaluator.service import EvaluationService
from services.evaluator.store import Store as ReportStore
from services.evaluator.store import folder_of, report_id_of
from services.inference.reconcile import ServeModel
from services.inference.versions.serving import Serving
from services.registry.clients import all_reports
from services.trainer.service import TrainingService
from services.trainer.store import Store as RunStore
from tests.worlds.dataprep import World
from tests.worlds.registry import Evaluator, Trainer
from tests.worlds.registry import registry as registry_of

NO_NAME: Any = None
"""A part that the calls of a test do not use."""


@asynccontextmanager
async def calling(service: object, add: Callable[[Any, aio.Server], None], name: str) -> AsyncIterator[aio.Channel]:
    """A channel to a server of this service alone."""
    server = open_server(ServerInterceptor(Tokens("", {})), [name])
    add(WithoutContext(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def append(blobs: MemoryBlobs, prefix: str, *messages: Message) -> None:
    """Put a ledger's entries as a version without limits did."""
    for number, message in enumerate(messages, 1):
        entry = LedgerEntry(number=number, request_id=f"request-{number}", actor="local")
        entry.message.Pack(message)
        entry.time.FromSeconds(number)
        await blobs.put(f"{prefix}/{number:010d}", entry.SerializeToString())


def with_rules(model: str, count: int) -> ModelSpec:
    rule = ModelSpec(gate=[GateRule(metric="accuracy", at_least=0.5)]).SerializeToString()
    return ModelSpec.FromString(ModelSpec(model=model, dataset="words").SerializeToString() + rule * count)


async def calling_registry(blobs: MemoryBlobs) -> Any:
    service = registry_of(blobs, Trainer(), Evaluator()).service
    return calling(
        service, registry_grpc.add_RegistryServiceServicer_to_server, "millstream.registry.v1.RegistryService"
    )


async def test_models_with_endless_gates_are_listed_and_inference_starts_after_them() -> None:
    blobs = MemoryBlobs()
    for model in ("a-large", "b-large"):
        await append(blobs, f"models/{model}/spec", with_rules(model, 600_000))
    await append(blobs, "models/toy/spec", small := with_rules("toy", 2))
    async with await calling_registry(blobs) as channel:
        stub = registry_grpc.RegistryServiceStub(channel)
        listed = [m async for page in pages(stub.ListModels, registry.ListModelsRequest()) for m in page.models]
        assert [(model.name, model.spec.model) for model in listed] == [(n, n) for n in ("a-large", "b-large", "toy")]
        assert listed[2].spec == small
        assert not listed[0].spec.gate, "a rule is never left out alone"
        shown = (await stub.GetModel(registry.GetModelRequest(model="a-large"))).model
        assert len(shown.spec.gate) == 600_000
        serving = Serving()
        serve = ServeModel(stub, NO_NAME, NO_NAME, serving, MemoryBus(), NO_NAME)
        assert [key.model async for key in serve.pending()] == ["a-large", "b-large", "toy"]


async def test_an_alias_with_long_reasons_and_versions_with_many_files_are_read() -> None:
    blobs = MemoryBlobs()
    await append(blobs, "models/toy/spec", with_rules("toy", 1))
    moves = [AliasEntry(model="toy", alias="champion", version=n, hold=True, reason="x" * 9_000_000) for n in (1, 2, 3)]
    await append(blobs, "models/toy/aliases/champion", *moves)
    files = [ArtifactFile(path=f"{n}/{'x' * 200}", digest="d" * 64) for n in range(400)]
    versions = [ModelVersion(model="toy", run_id=f"run-{n}", artifact=Artifact(files=files)) for n in range(200)]
    await append(blobs, "models/toy/versions", *versions)
    async with await calling_registry(blobs) as channel:
        stub = registry_grpc.RegistryServiceStub(channel)
        request = registry.ListAliasEntriesRequest(model="toy", page_size=1000)
        entries = [entry async for page in pages(stub.ListAliasEntries, request) for entry in page.entries]
        assert [(entry.number, entry.version, entry.hold) for entry in entries] == [(n, n, True) for n in (3, 2, 1)]
        assert entries[0].reason == "(left out: 9,000,000 characters)"
        newest = (await stub.GetAlias(registry.GetAliasRequest(model="toy", alias="champion"))).entry
        assert newest.reason == "x" * 9_000_000
        asking = registry.ListModelVersionsRequest(model="toy", page_size=1000)
        found = [v async for page in pages(stub.ListModelVersions, asking) for v in page.model_versions]
        assert [version.version for version in found] == list(range(200, 0, -1))
        assert all(len(version.artifact.files) == 400 for version in found)


async def test_a_thousand_reports_do_not_end_promotion() -> None:
    blobs = MemoryBlobs()
    row = ListValue()
    row.extend(["x" * 1000] * 18)
    for version in range(1, 1001):
        report_id = report_id_of("toy", version, "snapshot", 0)
        report = EvaluationReport(report_id=report_id, model="toy", version=version)
        report.tables.append(ReportTable(title="confusion", rows=[row]))
        await blobs.put(f"{folder_of(report_id)}/report", report.SerializeToString())
    service = EvaluationService(
        ReportStore(blobs, Outbox(blobs, MemoryBus(), "evaluator", {})), cast("Any", None), cast("Any", None)
    )
    name = "millstream.evaluation.v1.EvaluationService"
    async with calling(service, evaluation_grpc.add_EvaluationServiceServicer_to_server, name) as channel:
        stub = evaluation_grpc.EvaluationServiceStub(channel)
        found = await all_reports(stub, "toy")
        assert sorted(report.version for report in found) == list(range(1, 1001))
        assert {len(report.tables[0].rows) for report in found} == {1}
        first = await stub.ListEvaluationReports(evaluation.ListEvaluationReportsRequest(model="toy"))
        assert len(first.reports) == 100, "a page that fits is as large as was asked for"


async def test_a_snapshot_with_endless_column_names_is_read() -> None:
    world = World()
    columns = [ColumnReport(name=f"{n}" + "x" * 3_900_000, kept=True) for n in range(5)]
    parts = [DatasetPart(split="train", key="datasets/words/parts/p", digest="p", rows=3)]
    snapshot = Snapshot(dataset="words", snapshot_id="s", columns=columns, parts=parts)
    assert snapshot.ByteSize() > MAX_MESSAGE_BYTES
    assert isinstance(world.blobs, MemoryBlobs)
    await append(world.blobs, "datasets/words/spec", DatasetSpec())
    await append(world.blobs, "datasets/words/ledger", snapshot, snapshot)
    name = "millstream.dataset.v1.DatasetService"
    async with calling(world.service, dataset_grpc.add_DatasetServiceServicer_to_server, name) as channel:
        stub = dataset_grpc.DatasetServiceStub(channel)
        for number in (0, 1):
            shown = (await stub.GetSnapshot(dataset.GetSnapshotRequest(dataset="words", number=number))).snapshot
            assert (shown.snapshot_id, list(shown.parts), len(shown.columns)) == ("s", parts, 0)
        request = dataset.ListSnapshotsRequest(dataset="words", page_size=1000)
        listed = [each.number async for page in pages(stub.ListSnapshots, request) for each in page.snapshots]
        assert listed == [2, 1]


async def test_runs_with_long_reasons_are_listed_and_watched() -> None:
    blobs = MemoryBlobs()
    for run in ("run-1", "run-2"):
        spec = TrainingRunSpec(model="toy", dataset="words")
        spec.config.update({"text": "x" * 9_000_000})
        await blobs.put(f"runs/requests/{run}", RunRequest(run_id=run, spec=spec).SerializeToString())
        ended = RunOutcome(run_id=run, state=TrainingRun.STATE_CANCELLED, reason="y" * 9_000_000)
        await blobs.put(f"runs/outcomes/{run}", ended.SerializeToString())
    store = RunStore(blobs, Outbox(blobs, MemoryBus(), "trainer", {}), 10.0)
    await store.compare()  # an older version has stored them: they are not in the index yet
    service = TrainingService(store, NO_NAME, NO_NAME, NO_NAME, Catalog(["tests.recipes"]))
    name = "millstream.training.v1.TrainingService"
    async with calling(service, training_grpc.add_TrainingServiceServicer_to_server, name) as channel:
        stub = training_grpc.TrainingServiceStub(channel)
        request = training.ListTrainingRunsRequest(page_size=1000)
        listed = [run async for page in pages(stub.ListTrainingRuns, request) for run in page.runs]
        assert sorted((run.run_id, run.spec.model, run.state) for run in listed) == [
            (run, "toy", TrainingRun.STATE_CANCELLED) for run in ("run-1", "run-2")
        ]
        watched = [w.run async for w in stub.WatchTrainingRun(training.WatchTrainingRunRequest(run_id="run-1"))]
        assert [(run.run_id, run.state) for run in watched] == [("run-1", TrainingRun.STATE_CANCELLED)]
