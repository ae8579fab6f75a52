"""The invariants of a disturbed flow, read from the store, the services and the bus: nothing lost, doubled or pending."""

import asyncio
import hashlib
import time
from collections.abc import Iterable

from google.protobuf.message import Message

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.defaults import SERVICES, TOPICS
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import read_entry
from servicekit.ids import hash_of
from servicekit.runtime.backends import open_bus
from servicekit.runtime.settings import Settings
from tests.chaos import faults
from tests.chaos.scenario import Flow, weights
from tests.chaos.target import Platform
from tests.e2e.invariants import PUBLISHED


def settle(platform: Platform, flow: Flow) -> float:
    """Wait until all is converged: each replica serves, every fact is published. Returns the monotonic time of that."""
    ports = platform.world.ports
    addresses = [ports.listen(service, number) for service in SERVICES for number in range(ports.replicas)]
    asyncio.run(faults.all_serving(addresses))
    flow.until("an empty outbox", lambda: not asyncio.run(_keys(platform.world.blobs(), "outbox/")))
    with platform.world.client() as client:
        (version,) = flow.persist(lambda: list(client.versions(flow.name)))
    flow.until("the same answer everywhere", lambda: flow.served_everywhere(version))
    return time.monotonic()


def judge(platform: Platform, flow: Flow, undisturbed: TrainingRun, wiped: bool) -> tuple[list[str], list[str]]:
    """(What was lost, what is there twice). `wiped`: the bus has lost all messages, so they are not checked."""
    lost: list[str] = []
    doubled: list[str] = []
    blobs = platform.world.blobs()
    with platform.world.client() as client:
        runs = flow.persist(lambda: list(client.runs(flow.name)))
        found: dict[str, list[object]] = {
            "snapshots": asyncio.run(_ledger(blobs, f"datasets/{flow.name}/ledger", Snapshot)),
            "runs": list(runs),
            "outcomes": [r for r in runs if asyncio.run(blobs.exists(f"runs/outcomes/{r.run_id}"))],
            "versions": asyncio.run(_ledger(blobs, f"models/{flow.name}/versions", ModelVersion)),
            "reports": list(flow.persist(lambda: list(client.reports(flow.name)))),
            "moves of the alias": asyncio.run(_ledger(blobs, f"models/{flow.name}/aliases/champion", AliasEntry)),
        }
        for what, things in found.items():
            (lost if not things else doubled).extend([f"{what}: {len(things)}"] if len(things) != 1 else [])
        lost += _changed(blobs, found["snapshots"], flow.persist(lambda: client.snapshot(undisturbed.spec.dataset)))
        lost += [f"{run.run_id} ended otherwise: {run.state}" for run in runs if not _equal(run, undisturbed)]
        lost += [
            "the champion has no passing report"
            for report in found["reports"]
            if report.status != EvaluationReport.STATUS_PASSED  # type: ignore[attr-defined]
        ]
    if not wiped:
        lost += asyncio.run(_unpublished(platform, blobs, flow.name, [run.run_id for run in runs]))
    return lost, doubled


def _equal(run: TrainingRun, undisturbed: TrainingRun) -> bool:
    """To the last bit."""
    same = run.state == TrainingRun.STATE_SUCCEEDED and dict(run.metrics) == dict(undisturbed.metrics)
    return same and weights(run, "model.json") == weights(undisturbed, "model.json")


def _changed(blobs: Blobs, snapshots: Iterable[object], undisturbed: Snapshot) -> list[str]:
    """A snapshot holds what an undisturbed one of the same file holds, to the last byte."""
    found = []
    for snapshot in snapshots:
        assert isinstance(snapshot, Snapshot)
        if [part.digest for part in snapshot.parts] != [part.digest for part in undisturbed.parts]:
            found.append("the snapshot has other parts")
        for part in snapshot.parts:
            if hashlib.sha256(asyncio.run(blobs.get(part.key))).hexdigest() != part.digest:
                found.append(f"{part.key} has changed")
    return found


async def _ledger(blobs: Blobs, prefix: str, kind: type[Message]) -> list[object]:
    return [read_entry(await blobs.get(key), kind, key).message for key in await _keys(blobs, f"{prefix}/")]


async def _keys(blobs: Blobs, prefix: str) -> list[str]:
    return [listed.key async for listed in blobs.list(prefix)]


async def _unpublished(platform: Platform, blobs: Blobs, name: str, run_ids: Iterable[str]) -> list[str]:
    """Facts of the flow without an event on the bus."""
    prefixes = [f"datasets/{name}/ledger/", f"models/{name}/", *(f"runs/attempts/{run_id}/" for run_id in run_ids)]
    keys = [key for prefix in prefixes for key in await _keys(blobs, prefix)]
    keys += [f"runs/{part}/{run_id}" for part in ("requests", "outcomes") for run_id in run_ids]
    published = await _published(platform)
    return [
        f"{key} was never published"
        for key in keys
        if any(p.fullmatch(key) for p in PUBLISHED) and hash_of(key) not in published
    ]


async def _published(platform: Platform) -> set[str]:
    """The ids of all events that are on the bus."""
    bus = open_bus(Settings(bus=platform.bus))
    everything = bus.tail([topic.name for topic in TOPICS], from_start=True)
    found: set[str] = set()
    try:
        await everything.start()
        while await everything.lag():
            found |= {message.headers["ce_id"].decode() for message in await everything.batch()}
    finally:
        await everything.close()
        await bus.close()
    return found
