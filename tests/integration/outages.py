"""What tests of outages use: every call of every service, every fact on the bus, and one service with a wrong setting."""

import asyncio
import importlib
import os
import resource
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from deploy.demo.flow import Flow
from deploy.local.ports import free_ports
from millstream import Client
from millstream.cli.status import Replica
from millstream.dataset.v1.dataset_service_pb2 import GetImportRequest
from millstream.defaults import BY_NAME, SERVICES
from millstream.errors import FailedPrecondition, InvalidArgument, Unavailable
from millstream.operations.v1.service_status_pb2 import ServiceStatus
from millstream.registry.v1.model_pb2 import ModelVersion
from servicekit.ids import hash_of
from tests.e2e import invariants
from tests.e2e.scenario import DATASET, MODEL, SPEC
from tests.worlds.platform import ROOT, World, wait_until
from tests.worlds.waiting import FLOW, HANG

DOMAINS = {
    "dataprep": "dataset",
    "trainer": "training",
    "evaluator": "evaluation",
    "registry": "registry",
    "inference": "inference",
}
OUR_FAULT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}
Calls = Counter[tuple[str, str, str]]


def bring_to_serving(platform: World, file: Path) -> ModelVersion:
    """One file's way to a version that answers. Events are not needed for it: every service resyncs."""
    with platform.client() as client:
        flow = Flow(client, patience=FLOW, training_patience=FLOW)
        flow.apply(SPEC)
        _, snapshot = flow.bring_in(file, DATASET, SPEC["recipe"])
        version = flow.register(MODEL, flow.train(MODEL, snapshot))
        flow.promote(version, flow.evaluate(version))
        flow.serve(version)
    return version


# size: one line for each call of each service
def call_everything(platform: World, file: Path, folder: Path) -> None:
    """Each call of each service at least once. A refusal of what this recipe is not made for is an answer, too."""
    with platform.client() as client:
        imported = client.import_dataset(file, DATASET, recipe=SPEC["recipe"], mode="replace")
        client.wait_import(DATASET, imported.request_id, timeout=FLOW)
        run = client.train(MODEL, config={"steps": 1000, "step_seconds": 0.05}, preset="toy")
        report = next(client.reports(MODEL))
        version = client.alias(MODEL).version
        asked: list[Callable[[], object]] = [
            lambda: client._datasets.GetImport(GetImportRequest(dataset=DATASET, request_id=imported.request_id)),
            lambda: client.dataset(DATASET),
            lambda: list(client.datasets()),
            lambda: client.snapshot(DATASET),
            lambda: list(client.snapshots(DATASET)),
            lambda: next(client.rows(DATASET)),
            lambda: client.run(run.run_id),
            lambda: list(client.runs(MODEL)),
            lambda: client.cancel_run(run.run_id, "a try"),
            lambda: list(client.watch_run(run.run_id, timeout=FLOW)),
            lambda: list(client.run_log(run.run_id)),
            lambda: client.apply_model(SPEC),
            lambda: client.model(MODEL),
            lambda: list(client.models()),
            lambda: client.version(MODEL, version),
            lambda: list(client.versions(MODEL)),
            lambda: list(client.aliases(MODEL)),
            lambda: list(client.alias_history(MODEL)),
            lambda: client.alias_at(MODEL, datetime.now(UTC)),
            lambda: client.promote(MODEL, version, reason="a try"),
            lambda: client.rollback(MODEL, reason="a try"),
            lambda: client.release(MODEL),
            lambda: client.download_artifact(MODEL, folder),
            lambda: client.report(report.report_id),
            lambda: client.report_page(report.report_id),
            lambda: client.evaluate_again(MODEL, report.version, reason="try"),
            lambda: client.classify(MODEL, ["kind"]),
            lambda: client.predict(MODEL, [{"text": "kind"}]),
            lambda: list(client.served()),
            lambda: list(client.load_problems()),
            lambda: client.retry_version(MODEL, version, "a try"),
            lambda: client.embed(MODEL, ["kind"]),
            lambda: client.similar(MODEL, "kind"),
            lambda: client.rank(MODEL, {"a": ["kind"]}, "good"),
        ]
        for ask in asked:
            with suppress(FailedPrecondition, InvalidArgument):
                ask()


def needs_the_store(client: Client, file: Path, folder: Path) -> list[Callable[[], object]]:
    """Calls of every service but inference that cannot be answered without the store.

    One report by its id can be: it never changes, so a service that has read it once answers from its cache.
    """
    run = next(client.runs(MODEL))
    return [
        lambda: client.import_dataset(file, DATASET, recipe=SPEC["recipe"], mode="replace"),
        lambda: client.dataset(DATASET),
        lambda: list(client.datasets()),
        lambda: list(client.snapshots(DATASET)),
        lambda: client.train(MODEL),
        lambda: list(client.runs(MODEL)),
        lambda: list(client.run_log(run.run_id)),
        lambda: client.apply_model(SPEC),
        lambda: list(client.models()),
        lambda: client.alias(MODEL),
        lambda: client.promote(MODEL, 1, reason="a try"),
        lambda: client.download_artifact(MODEL, folder),
        lambda: list(client.reports(MODEL)),
    ]


def problems(platform: World) -> list[list[str]]:
    """The problems that each service reports."""
    with platform.client() as client:
        return [list(Replica(service, "", client.status(service)).problems()) for service in SERVICES]


def methods() -> set[tuple[str, str]]:
    """Every call of every service, as its proto has it."""
    found = set()
    for domain in DOMAINS.values():
        module = importlib.import_module(f"millstream.{domain}.v1.{domain}_service_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {(service.full_name, method.name) for method in service.methods}
    return found


def calls(platform: World) -> Calls:
    """How many calls of each method have ended with each code, as the services count them."""
    found: Calls = Counter()
    for service in SERVICES:
        with urllib.request.urlopen(f"http://{platform.ports.metrics(service, 0)}/metrics", timeout=HANG) as page:
            for family in text_string_to_metric_families(page.read().decode()):
                for sample in family.samples if family.name == "grpc_server_handled" else ():
                    if sample.name.endswith("_total"):
                        labels = (sample.labels[f"grpc_{name}"] for name in ("service", "method", "code"))
                        service_name, method, code = labels
                        found[service_name, method, code] += int(sample.value)
    return found


def facts(platform: World) -> set[str]:
    """The ids of the events of all facts that are stored."""
    keys = invariants.keys(platform.blobs(), "")
    return {hash_of(key) for key in keys if any(kind.fullmatch(key) for kind in invariants.PUBLISHED)}


def published(platform: World) -> set[str]:
    """The ids of all events on the bus."""

    async def read() -> set[str]:
        bus = platform.bus()
        tail = bus.tail(list(BY_NAME), from_start=True)
        await tail.start()
        ids = set()
        while await tail.lag():
            ids |= {message.headers["ce_id"].decode() for message in await tail.batch()}
        await tail.close()
        await bus.close()
        return ids

    return asyncio.run(read())


@dataclass(frozen=True)
class Service:
    """One service as a process of its own, and a client that asks it."""

    pid: int
    client: Client
    log: Path
    name: str

    def status(self) -> ServiceStatus:
        return self.client.status(self.name)

    def problems(self) -> list[str]:
        """The problems that `millstream status` shows; none while the service is not up."""
        try:
            return list(Replica(self.name, "", self.status()).problems())
        except Unavailable:
            return []

    def until_it_reports(self, words: str) -> None:
        """Wait until `millstream status` shows this problem alone: at its start a service shows others too."""

        def is_shown() -> bool:
            found = self.problems()
            return len(found) == 1 and words in found[0]

        wait_until(is_shown, f"it shows {words!r} and nothing else")

    def until_it_is_well(self) -> None:
        def well() -> bool:
            with suppress(Unavailable):  # it has hardly begun
                status = self.status()
                return status.ready and status.blobs.ok and status.bus.ok and not self.problems()
            return False

        wait_until(well, "all is well")

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """A full disk that needs no rights: no file of the process may grow."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def one_service(folder: Path, settings: Mapping[str, str], name: str = "registry") -> Iterator[Service]:
    """A running service with these settings, with a folder as its store by default."""
    ports = free_ports()
    address = ports.listen(name, 0)
    named = {"listen": address, "metrics_listen": "", "blobs": f"directory:{folder / 'blobs'}", **settings}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MILLSTREAM_", "TEST_BUS"))}
    environment = {**clean, **{f"MILLSTREAM_{key.upper()}": value for key, value in named.items()}}
    log = folder / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"], cwd=ROOT, env=environment, stdout=file, stderr=file
        )
    try:
        with Client(**{name: address}) as client:  # type: ignore[arg-type]
            yield Service(process.pid, client, log, name)
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(HANG)
