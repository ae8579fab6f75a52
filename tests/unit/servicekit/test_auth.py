"""Authorisation: every method requires the role that its proto gives it."""

import importlib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from millstream.auth.v1.role_pb2 import ROLE_OPERATOR, ROLE_READER, ROLE_WRITER, Role
from millstream.errors import PermissionDenied, Unauthenticated
from servicekit.rpc.auth import LOCAL, Tokens, roles_of

DOMAINS = ("dataset", "training", "evaluation", "registry", "inference", "operations")
LOOKING = ("Get", "List", "Watch", "Read", "Download", "AliasAt")


def services() -> list[ServiceDescriptor]:
    """The gRPC services of all protos."""
    modules = [importlib.import_module(f"millstream.{name}.v1.{name}_service_pb2") for name in DOMAINS]
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


ALL = roles_of(services())


def test_every_method_of_every_service_has_a_role() -> None:
    assert len(ALL) > 35 and set(ALL.values()) == {ROLE_READER, ROLE_WRITER, ROLE_OPERATOR}


@pytest.mark.parametrize(
    ("method", "role"),
    [
        ("registry.v1.RegistryService/GetModel", ROLE_READER),
        ("registry.v1.RegistryService/AliasAt", ROLE_READER),
        ("registry.v1.RegistryService/DownloadArtifact", ROLE_READER),
        ("registry.v1.RegistryService/PromoteModelVersion", ROLE_WRITER),
        ("dataset.v1.DatasetService/ImportDataset", ROLE_WRITER),
        ("training.v1.TrainingService/WatchTrainingRun", ROLE_READER),
        ("training.v1.TrainingService/CancelTrainingRun", ROLE_WRITER),
        ("operations.v1.OperationsService/GetStatus", ROLE_READER),
        ("operations.v1.OperationsService/ListDeadLetters", ROLE_OPERATOR),
        ("operations.v1.OperationsService/ReplayDeadLetter", ROLE_OPERATOR),
        ("inference.v1.InferenceService/Classify", ROLE_READER),
        ("inference.v1.InferenceService/Similar", ROLE_READER),
    ],
)
def test_the_role_of_a_method(method: str, role: Role.ValueType) -> None:
    assert ALL[f"millstream.{method}"] == role


def test_methods_that_only_read_require_the_role_reader() -> None:
    for name, role in ALL.items():
        service, _, method = name.partition("/")
        if method.startswith(LOOKING) and "Operations" not in service:
            assert role == ROLE_READER, name


def test_a_method_without_a_role_ends_the_start() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="planted.proto", package="planted")
    file.message_type.add(name="Nothing")
    file.service.add(name="Planted").method.add(
        name="Open", input_type=".planted.Nothing", output_type=".planted.Nothing"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    with pytest.raises(SystemExit, match=r"planted\.Planted/Open has no role"):
        roles_of([pool.FindServiceByName("planted.Planted")])


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "tokens"
    file.write_text("r reading reader\nw writing writer\no ops operator\n")
    return Tokens(str(file), ALL)


def test_each_role_includes_the_ones_before_it(tokens: Tokens) -> None:
    registry, operations = "millstream.registry.v1.RegistryService", "millstream.operations.v1.OperationsService"
    for token, allowed in (("r", 1), ("w", 2), ("o", 3)):
        calls = [(registry, "GetModel"), (registry, "ApplyModel"), (operations, "TailEvents")]
        for number, (service, method) in enumerate(calls, 1):
            if number <= allowed:
                assert tokens.caller(service, method, f"Bearer {token}").name in ("reading", "writing", "ops")
            else:
                with pytest.raises(PermissionDenied, match=f"{method} needs the role"):
                    tokens.caller(service, method, f"Bearer {token}")


def test_a_method_that_no_proto_knows_is_for_operators(tokens: Tokens) -> None:
    with pytest.raises(PermissionDenied):
        tokens.caller("other.Service", "Do", "Bearer w")


def test_health_and_reflection_need_no_token(tokens: Tokens) -> None:
    assert tokens.caller("grpc.health.v1.Health", "Check", "") == LOCAL
    with pytest.raises(Unauthenticated):
        tokens.caller("millstream.registry.v1.RegistryService", "GetModel", "")
