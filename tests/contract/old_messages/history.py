"""The history of a corpus: calls of users and operators, and faults, until every kind of object has been written."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.flow import Flow
from millstream import Client
from millstream.dataset.v1.dataset_pb2 import Cleaning, DatasetSpec, SplitSpec
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.operations.v1.stored_pb2 import OutboxMarker
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Message
from servicekit.facts.events import to_message
from servicekit.facts.ledger import Ledger
from servicekit.facts.ledger_index import BLOCK
from tests.e2e.invariants import keys
from tests.worlds.platform import TOY, World, publish, wait_until, world

MODEL, DATASET, PLAIN = "toy", "toy-words", "plain"
OTHER_ALIAS = "candidate"
ROWS = 70
RESYNC_SECONDS = 1.0
GATE = {"metric": "accuracy", "at_least": 0.5, "at_most": 1.0, "over_baseline": -1.0, "over_champion": -1.0}
OUT_OF_REACH = {"metric": "accuracy", "over_champion": 1.0}
SLOW = {"seed": 21, "step_seconds": 0.1, "checkpoint_every": 5, "steps": 60}
"""Six seconds; the platform stops after the first ones: a run that is left open, with a checkpoint."""
SPEC: dict[str, Any] = {
    "model": MODEL,
    "recipe": "toy_words",
    "preset": "toy",
    "config": {"seed": 7},
    "dataset": DATASET,
    "gate": [GATE],
    "promotion": {"automatic": True},
    "training": {
        "automatic": True,
        "time_limit": "120s",
        "minimum_interval": "0.001s",
        "resources": {"gpus": 1, "nodes": 1},
    },
    "serving": {"aliases": ["champion", OTHER_ALIAS]},
}


@dataclass
class Seen:
    """Objects that do not exist any more at the end."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def take(self, blobs: Blobs, prefix: str) -> bool:
        """Keep the objects under a prefix; returns whether there were any."""
        found = keys(blobs, prefix)
        self.objects |= {key: asyncio.run(blobs.get(key)) for key in found}
        return bool(found)


def live(state: Path) -> tuple[World, Seen]:
    """Run it all in a state folder. On return the platform has stopped, and its store and bus can be read."""
    (state / "failpoints").mkdir(parents=True)
    seen = Seen()
    environment = {"TEST_FAILPOINTS": str(state / "failpoints")}
    settings = {"slots": "2", "gpus": "0,1"}
    made = world(state, kind="local", resync_seconds=RESYNC_SECONDS, settings=settings, environment=environment)
    with made as platform, platform.client() as client:
        a_model_and_its_data(client, state)
        runs_that_end_otherwise(client)
        promotions_by_hand(client)
        a_version_that_cannot_serve(platform, client, seen)
        letters(platform, client)
        another_dataset(platform, client, state, seen)
        a_fact_of_a_later_version(platform)
    without_a_bus(state)
    asyncio.run(a_long_ledger(seen))
    return platform, seen


def a_model_and_its_data(client: Client, folder: Path) -> None:
    """Two files become two champions; one import is unchanged, one refused."""
    flow = Flow(client)
    client.apply_model(SPEC)
    spec = DatasetSpec(
        recipe=SPEC["recipe"],
        cleaning=Cleaning(keep_whitespace=True, strip_html=True, fix_encoding=True),
        split=SplitSpec(validation_share=0.15, test_share=0.2),
    )
    first = rows(folder / "first.jsonl", 0)
    assert imported(client, first, DATASET, spec) == Import.STATE_SUCCEEDED
    versions = [through(flow, client, 1)]
    assert imported(client, first, DATASET) == Import.STATE_UNCHANGED
    nonsense = folder / "nonsense.jsonl"
    nonsense.write_text("this is no JSON\n")
    assert imported(client, nonsense, DATASET) == Import.STATE_REFUSED
    assert imported(client, rows(folder / "second.jsonl", 10), DATASET) == Import.STATE_SUCCEEDED
    versions.append(through(flow, client, 2))
    assert [version.version for version in versions] == [1, 2]


def runs_that_end_otherwise(client: Client) -> None:
    failed = client.train(MODEL, config={"fail_at_step": 3})
    slow = client.train(MODEL, config=SLOW)
    wait_until(lambda: client.run(slow.run_id).progress.step, "the run has begun")
    client.cancel_run(slow.run_id, reason="not wanted any more")
    assert client.wait_run(failed.run_id, timeout=60).state == TrainingRun.STATE_FAILED
    assert client.wait_run(slow.run_id, timeout=60).state == TrainingRun.STATE_CANCELLED


def promotions_by_hand(client: Client) -> None:
    """A forced promotion, a rollback, a release; and another alias."""
    client.apply_model({**SPEC, "gate": [OUT_OF_REACH]})
    version = trained(client, 11)
    report = reported(client, version)
    assert report.status == EvaluationReport.STATUS_FAILED
    client.evaluate_again(MODEL, version.version, reason="a GPU was out of order")
    wait_until(lambda: len(list(client.reports(MODEL, version.version))) > 1, "there is another report")
    client.promote(MODEL, version.version, override="the champion's data were wrong")
    client.rollback(MODEL, reason="angry users")
    client.release(MODEL, reason="mended")
    client.promote(MODEL, 1, alias=OTHER_ALIAS, reason="somebody wants it")
    client.apply_model(SPEC)


def a_version_that_cannot_serve(platform: World, client: Client, seen: Seen) -> None:
    """An artifact is damaged before it is loaded; and a process dies while it loads another."""
    (evaluator,) = platform.pids("evaluator")
    blobs = platform.blobs()
    with stopped(evaluator):
        version = trained(client, 12)
        golden = f"artifacts/{version.artifact.digest}/files/golden.json"
        found = json.loads(asyncio.run(blobs.get(golden)))
        asyncio.run(blobs.put(golden, json.dumps({**found, "rows": found["rows"][1:]}).encode()))
    assert reported(client, version).status == EvaluationReport.STATUS_ERROR
    client.promote(MODEL, version.version, override="it was in a hurry")
    refusal = f"refusals/{MODEL}/{version.version:010d}/refusal"
    wait_until(lambda: keys(blobs, refusal), "a refusal")
    client.retry_version(MODEL, version.version, note="is it still so?")
    wait_until(lambda: keys(blobs, refusal), "the same refusal again")
    crash = platform.state / "failpoints" / "inference.attempted"
    crash.touch()
    client.rollback(MODEL, 1, reason="it does not serve")
    client.rollback(MODEL, 2, reason="the one before served, too")
    os.kill(platform.pids("inference")[0], signal.SIGKILL)  # the next process loads everything again
    wait_until(lambda: seen.take(blobs, f"refusals/{MODEL}/{2:010d}/attempts/"), "a load that ended in a death")
    wait_until(lambda: not crash.exists(), "the death")
    client.release(MODEL, reason="all is well")
    client.wait_served(MODEL, 2, timeout=30)


def letters(platform: World, client: Client) -> None:
    """Two messages that cannot be parsed: one is replayed, and becomes a letter again, one is dropped."""
    good = to_message(SnapshotCreated(dataset=DATASET, number=1), DATASET, "an-event", "dataprep")
    publish(
        platform,
        Message(good.topic, DATASET, b"\xff\xfe\x00", good.headers),
        Message(good.topic, DATASET, good.value, {}),
    )
    wait_until(lambda: len(list(client.dead_letters("trainer"))) == 2, "two dead letters")
    first, second = client.dead_letters("trainer")
    client.replay_dead_letter("trainer", first.id, note="does it work now?")
    client.drop_dead_letter("trainer", second.id, reason="nothing is lost by it")
    wait_until(lambda: len(list(client.dead_letters("trainer", show_resolved=True))) == 3, "the replayed letter")


def another_dataset(platform: World, client: Client, folder: Path, seen: Seen) -> None:
    """Of no recipe, split by a column of its own; an append to it waits until the store gives its rows back whole."""
    file, more = folder / "plain.csv", folder / "more.csv"
    file.write_text("text,part\nthe mill was old,train\nthe mill was new,test\nthe mill was grey,validation\n")
    assert imported(client, file, PLAIN, DatasetSpec(split=SplitSpec(column="part"))) == Import.STATE_SUCCEEDED
    blobs, part = platform.blobs(), client.snapshot(PLAIN).parts[0].key
    whole = asyncio.run(blobs.get(part))
    asyncio.run(blobs.put(part, b"damaged"))
    more.write_text("text,part\nthe mill was blue,train\n")
    asked = client.import_dataset(more, PLAIN, mode="append")
    attempts = f"datasets/{PLAIN}/attempts/{asked.request_id}/"
    wait_until(lambda: any("/released" in key for key in keys(blobs, attempts)), "an attempt that waits")
    seen.take(blobs, attempts)
    asyncio.run(blobs.put(part, whole))
    assert client.wait_import(PLAIN, asked.request_id, timeout=60).state == Import.STATE_SUCCEEDED


def a_fact_of_a_later_version(platform: World) -> None:
    """A marker of a kind of fact that only a later version knows is parked."""
    blobs, marker = platform.blobs(), OutboxMarker(key="things/of-a-later-version/0000000001")
    asyncio.run(blobs.put("outbox/registry/later", marker.SerializeToString()))
    wait_until(lambda: keys(blobs, "outbox-parked/"), "it is parked")
    wait_until(lambda: not keys(blobs, "outbox/"), "all else is published")


def without_a_bus(state: Path) -> None:
    """A run begins whose events are not published; then the platform stops."""
    (state / "no-folder").touch()
    settings = {"bus": f"sqlite:{state / 'no-folder' / 'bus.sqlite'}", "gpus": "0,1"}
    made = world(state, kind="local", resync_seconds=RESYNC_SECONDS, settings=settings)
    with made as platform, platform.client() as client:
        run = client.train(MODEL, config=SLOW, request_id="left-open")
        prefix = f"checkpoints/{run.run_id}/"
        manifests = lambda: [key for key in keys(platform.blobs(), prefix) if key.endswith("/manifest")]  # noqa: E731
        wait_until(manifests, "a checkpoint")


async def a_long_ledger(seen: Seen) -> None:
    """A block of as many entries as it has. They are not kept: only a process that starts reads them by the block."""
    blobs = MemoryBlobs()
    ledger = Ledger(blobs, f"models/{MODEL}/aliases/{OTHER_ALIAS}", AliasEntry)
    for number in range(BLOCK):
        entry = AliasEntry(model=MODEL, alias=OTHER_ALIAS, version=1 + number % 2)
        await ledger.append(entry, request_id=f"move-{number}", actor="somebody")
    await ledger.index()
    async for block in blobs.list("ledger-blocks/"):
        seen.objects[block.key] = await blobs.get(block.key)


# --- steps


def rows(path: Path, skip: int) -> Path:
    """Some of the toy recipe's sample, with a duplicate and two bad rows."""
    found = (TOY / "sample.jsonl").read_text().splitlines()[skip : skip + ROWS]
    path.write_text("\n".join([*found, found[0], "this is no JSON", json.dumps({"text": "", "label": "good"})]) + "\n")
    return path


def imported(client: Client, file: Path, dataset: str, spec: DatasetSpec | None = None) -> "Import.State.ValueType":
    asked = client.import_dataset(file, dataset, spec=spec, mode="replace")
    return client.wait_import(dataset, asked.request_id, timeout=60).state


def through(flow: Flow, client: Client, number: int) -> ModelVersion:
    """Follow a snapshot until its version serves."""
    version = flow.register(MODEL, flow.train(MODEL, client.snapshot(DATASET, number)))
    flow.promote(version, flow.evaluate(version))
    flow.serve(version)
    return version


def trained(client: Client, seed: int) -> ModelVersion:
    run = client.wait_run(client.train(MODEL, config={"seed": seed}).run_id, timeout=60)
    return Flow(client).register(MODEL, run)


def reported(client: Client, version: ModelVersion) -> EvaluationReport:
    return Flow(client).evaluate(version)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """The process is stopped (SIGSTOP) meanwhile."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
