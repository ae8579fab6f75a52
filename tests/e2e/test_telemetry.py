"""Metrics: which service has which after a flow, and that names and labels follow the conventions."""

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from prometheus_client.parser import text_string_to_metric_families

from millstream.defaults import SERVICES
from tests.e2e import scenario
from tests.unit.servicekit.test_auth import services
from tests.worlds.platform import World, wait_until, world
from tests.worlds.waiting import HANG

MOVED = {
    "dataprep": ["millstream_dataprep_imports", "millstream_outbox_published"],
    "trainer": ["millstream_trainer_workers_started", "millstream_trainer_slots", "millstream_outbox_published"],
    "evaluator": ["millstream_evaluator_reports", "millstream_evaluator_primary_metric", "millstream_events_handled"],
    "registry": [
        "millstream_registry_versions_registered",
        "millstream_registry_alias_moves",
        "millstream_events_handled",
    ],
    "inference": [
        "millstream_inference_requests",
        "millstream_inference_queue_seconds",
        "millstream_inference_infer_seconds",
        "millstream_inference_model_info",
        "millstream_events_handled",
    ],
}
"""By service, the metrics that are above zero after one file."""
EVERYWHERE = [
    "grpc_server_started",
    "grpc_server_handled",
    "grpc_server_handling_seconds",
    "grpc_server_msg_sent",
    "millstream_dependency_ok",
]
IDS = {"run_id", "report_id", "request_id", "snapshot_id", "user", "text", "key"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("telemetry")
    with world(folder / "state") as platform:
        scenario.run(platform, scenario.a_file(folder))
        yield platform


def shown(platform: World, service: str) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    """A service's samples (name, labels, value) by metric family."""
    with urllib.request.urlopen(f"http://{platform.ports.metrics(service, 0)}/metrics", timeout=HANG) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {family.name: [(s.name, s.labels, s.value) for s in family.samples] for family in families}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_shows_what_it_did(platform: World, service: str) -> None:
    def still() -> list[str]:
        families = shown(platform, service)
        wanted = MOVED[service] + EVERYWHERE
        return [name for name in wanted if not any(value > 0 for _, _, value in families.get(name, ()))]

    wait_until(lambda: not still(), f"{service} shows all of {MOVED[service] + EVERYWHERE} above zero")


@pytest.mark.parametrize("service", SERVICES)
def test_names_and_labels_follow_the_rules(platform: World, service: str) -> None:
    for family, samples in shown(platform, service).items():
        if family.startswith(("python_", "process_")):
            continue
        assert family.startswith(("grpc_server_", "millstream_")), f"{family} has no prefix of ours"
        assert not family.endswith(("_ms", "_us", "_milliseconds")), f"{family}: seconds are the unit"
        for name, labels, _ in samples:
            assert not name.endswith("_quantile") and "quantile" not in labels, f"{name}: histograms can be summed"
            assert not IDS & set(labels), f"{name} has a label without bound: {labels}"


OWNERS = {
    "dataset": "dataprep",
    "training": "trainer",
    "evaluation": "evaluator",
    "registry": "registry",
    "inference": "inference",
}
"""By the part of a proto package that names it: the service that answers."""


def asks(method: MethodDescriptor, name: str) -> Any:
    """A request with this name in each text, so also for the model, the dataset or the run."""
    made: Any = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.type == field.TYPE_STRING:
            if field.is_repeated:
                getattr(made, field.name).append(name)
            else:
                setattr(made, field.name, name)
    return made


def test_names_that_callers_invent_make_no_labels(platform: World) -> None:
    methods = [
        method
        for contract in services()
        if contract.full_name.split(".")[1] in OWNERS
        for method in contract.methods
        if any(field.type == field.TYPE_STRING for field in method.input_type.fields)
    ]
    with ExitStack() as opened:
        channels = {
            owner: opened.enter_context(grpc.insecure_channel(platform.addresses[owner])) for owner in OWNERS.values()
        }
        for number, method in zip(range(1000), cycle(methods), strict=False):
            contract = method.containing_service
            channel = channels[OWNERS[contract.full_name.split(".")[1]]]
            kind = (
                f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
            )
            request = asks(method, f"invented-{number}").SerializeToString()
            call = getattr(channel, kind)(f"/{contract.full_name}/{method.name}")
            with suppress(grpc.RpcError):
                answer = call(iter([request]) if method.client_streaming else request, timeout=HANG)
                if method.server_streaming:
                    list(answer)
    assert len(methods) > 30
    for service in SERVICES:
        for samples in shown(platform, service).values():
            for name, labels, _ in samples:
                assert not any("invented" in value for value in labels.values()), f"{name} of {service}: {labels}"
