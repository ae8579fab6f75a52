"""What is too large to be stored is refused where it is sent, by its field: over a real server, and by the command line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner

from millstream.channel import open_channel
from millstream.cli.app import app
from millstream.dataset.v1.dataset_pb2 import DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub, add_DatasetServiceServicer_to_server
from millstream.errors import InvalidArgument
from millstream.operations.v1 import operations_service_pb2 as operations
from millstream.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import GateRule, ModelSpec
from millstream.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRunSpec
from millstream.training.v1.training_service_pb2_grpc import (
    TrainingServiceStub,
    add_TrainingServiceServicer_to_server,
)
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.limits import (
    CALLER_CHARACTERS,
    COLUMN_CHARACTERS,
    FILE_NAME_CHARACTERS,
    GATE_RULES,
    REASON_CHARACTERS,
    SERVED_ALIASES,
    SPEC_BYTES,
)
from servicekit.rpc.auth import Tokens
from servicekit.rpc.interceptor import ServerInterceptor, WithoutContext
from servicekit.rpc.server import open_server
from servicekit.runtime.operations import Operations, add_operations
from servicekit.runtime.status import Status
from servicekit.work.deadletters import DeadLetters
from services.trainer.service import TrainingService
from services.trainer.store import Store as RunStore
from tests.worlds.dataprep import World
from tests.worlds.registry import SPEC, Evaluator, registered

NO_PART: Any = None
LONG = "x" * (REASON_CHARACTERS + 1)


@asynccontextmanager
async def everything() -> AsyncIterator[tuple[str, Any]]:
    """A server of registry, trainer, dataprep and the calls for operators: its address, and the registry."""
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(1, 0)
    bus, catalog = MemoryBus(), Catalog(["tests.recipes"])
    runs = RunStore(MemoryBlobs(), Outbox(MemoryBlobs(), bus, "trainer", {}), 10.0)
    server = open_server(ServerInterceptor(Tokens("", {})), ["millstream.dataset.v1.DatasetService"])
    add_RegistryServiceServicer_to_server(WithoutContext(replica.service), server)  # type: ignore[arg-type]
    trainer: Any = WithoutContext(TrainingService(runs, NO_PART, NO_PART, NO_PART, catalog))
    add_TrainingServiceServicer_to_server(trainer, server)
    dataprep: Any = WithoutContext(World().service)
    add_DatasetServiceServicer_to_server(dataprep, server)
    status: Status = NO_PART
    add_operations(Operations(bus, DeadLetters(MemoryBlobs(), bus, "registry"), status), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", replica
    finally:
        await server.stop(0)


async def refused(call: Awaitable[Any], field: str, *words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await call
    assert caught.value.field == field
    for word in (field, "at most", *words):
        assert word in caught.value.text


def spec(**more: Any) -> ModelSpec:
    return ParseDict({**SPEC, **more}, ModelSpec())


async def test_the_registry_refuses_what_would_be_too_large_to_list() -> None:
    async with everything() as (address, replica), open_channel(address) as channel:
        stub = RegistryServiceStub(channel)
        rules = [GateRule(metric="accuracy", at_least=0.5)]
        for changed, field, words in (
            (spec(config={"note": "x" * SPEC_BYTES}), "spec", f"{SPEC_BYTES:,}"),
            (ModelSpec(gate=rules * (GATE_RULES + 1)), "spec.gate", "101 entries"),
            (spec(serving={"aliases": ["a"] * (SERVED_ALIASES + 1)}), "spec.serving.aliases", "101 entries"),
        ):
            changed.MergeFrom(spec())
            await refused(stub.ApplyModel(registry.ApplyModelRequest(spec=changed)), field, words)
        named: dict[str, Any] = {"model": "toy", "reason": LONG}
        await refused(
            stub.PromoteModelVersion(registry.PromoteModelVersionRequest(version=1, **named)), "reason", "2,001"
        )
        forced = registry.PromoteModelVersionRequest(model="toy", version=1, override=LONG)
        await refused(stub.PromoteModelVersion(forced), "override", "2,001")
        await refused(stub.RollbackAlias(registry.RollbackAliasRequest(**named)), "reason", "2,001")
        await refused(stub.ReleaseAlias(registry.ReleaseAliasRequest(**named)), "reason", "2,001")
        assert not await replica.store.alias_entries("toy", "champion"), "nothing was stored"
        assert len(await replica.store.specs("toy").entries()) == 1
        most = spec(gate=[{"metric": "accuracy", "at_least": 0.5}] * GATE_RULES)
        await stub.ApplyModel(registry.ApplyModelRequest(spec=most))
        made = await stub.PromoteModelVersion(
            registry.PromoteModelVersionRequest(model="toy", version=1, reason=LONG[1:])
        )
        assert made.entry.reason == LONG[1:], "what is within the limits is kept as it is"


async def test_trainer_dataprep_and_operators_calls_refuse_it_too() -> None:
    async def upload(**header: Any) -> AsyncIterator[ImportDatasetRequest]:
        yield ImportDatasetRequest(header=ImportHeader(dataset="words", **header))

    async with everything() as (address, _), open_channel(address) as channel:
        runs, datasets, operators = (
            TrainingServiceStub(channel),
            DatasetServiceStub(channel),
            OperationsServiceStub(channel),
        )
        large = TrainingRunSpec(model="toy")
        large.config.update({"note": "x" * SPEC_BYTES})
        await refused(runs.CreateTrainingRun(training.CreateTrainingRunRequest(spec=large)), "spec")
        await refused(runs.CancelTrainingRun(training.CancelTrainingRunRequest(run_id="r", reason=LONG)), "reason")
        name = "x" * FILE_NAME_CHARACTERS + ".csv"
        await refused(datasets.ImportDataset(upload(file_name=name)), "file_name", "255")
        column = DatasetSpec(split=SplitSpec(column="x" * (COLUMN_CHARACTERS + 1)))
        await refused(datasets.ImportDataset(upload(file_name="a.csv", spec=column)), "spec.split.column")
        column.split.column *= SPEC_BYTES // COLUMN_CHARACTERS
        await refused(datasets.ImportDataset(upload(file_name="a.csv", spec=column)), "spec")
        letter = {"id": "0" * 32}
        await refused(operators.DropDeadLetter(operations.DropDeadLetterRequest(reason=LONG, **letter)), "reason")
        await refused(operators.ReplayDeadLetter(operations.ReplayDeadLetterRequest(note=LONG, **letter)), "note")


async def test_the_command_line_says_what_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with everything() as (address, replica):
        monkeypatch.setenv("MILLSTREAM_REGISTRY", address)
        words = ["promote", "toy", "1", "--reason", LONG]
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert result.exit_code != 0 and "reason has 2,001 characters: use at most 2,000" in result.stderr
        assert "Traceback" not in result.stderr
        assert not await replica.store.alias_entries("toy", "champion")


def test_a_callers_name_has_a_limit(tmp_path: Any) -> None:
    (tmp_path / "tokens").write_text(f"# names\nsecret {'x' * (CALLER_CHARACTERS + 1)} reader\n")
    with pytest.raises(SystemExit, match="line 2: a name has at most 200 characters"):
        Tokens(str(tmp_path / "tokens"), {})
