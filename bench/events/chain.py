"""From the fact SnapshotCreated to inference serving the version trained on it: the platform's five processes, toy recipe.

Times are those of the platform's own events (ce_time); the training is the seconds that its worker reported.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from bench.events.figures import Figures
from deploy.demo.__main__ import training_seconds
from millstream import Client
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.defaults import TOPICS
from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from millstream.inference.v1.events_pb2 import VersionServed
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from millstream.training.v1.events_pb2 import TrainingRunCreated, TrainingRunStarted, TrainingRunSucceeded
from servicekit.bus.port import Subscription
from servicekit.facts.events import Event, from_message
from tests.e2e import scenario
from tests.worlds.platform import World, world

CHAIN = (
    SnapshotCreated,
    TrainingRunCreated,
    TrainingRunStarted,
    TrainingRunSucceeded,
    ModelVersionRegistered,
    EvaluationCompleted,
    AliasMoved,
    VersionServed,
)


def chains(folder: Path, settings: Mapping[str, str], count: int) -> Sequence[Figures]:
    """Seconds of each of so many files, imported one after the other. The first is the first that the platform sees."""
    with world(folder / "state", kind="local", settings=settings) as platform:
        return asyncio.run(_follow(platform, [scenario.a_file(folder, skip=10 * n) for n in range(count)]))


async def _follow(platform: World, files: Sequence[Path]) -> list[Figures]:
    bus = platform.bus()
    tail = bus.tail([topic.name for topic in TOPICS])
    await tail.start()
    with platform.client() as client:
        client.apply_model(scenario.SPEC)
        found = [await _through(client, tail, file, number) for number, file in enumerate(files, 1)]
    await bus.close()
    return found


async def _through(client: Client, tail: Subscription, file: Path, number: int) -> Figures:
    """Of file `number`, which becomes the snapshot and the version of this number."""
    created = client.import_dataset(file, scenario.DATASET, recipe=scenario.SPEC["recipe"], mode="replace")
    client.wait_import(scenario.DATASET, created.request_id)
    seen: dict[type, Event] = {}
    while VersionServed not in seen:
        for event in map(from_message, await tail.batch()):
            if not isinstance(event.fact, VersionServed) or event.fact.version == number:
                seen.setdefault(type(event.fact), event)
    answer = client.classify(scenario.MODEL, ["the mill was kind and sweet"])
    if answer.served.version != number:
        raise SystemExit(f"version {answer.served.version} answers, not {number}")
    began = client.snapshot(scenario.DATASET, number).create_time.ToNanoseconds() / 10**9
    training = training_seconds(client.run(answer.served.run_id))
    after = {
        kind.__name__: datetime.fromisoformat(seen[kind].time).timestamp() - began for kind in CHAIN if kind in seen
    }
    return {**after, "training": training, "beyond_training": after[VersionServed.__name__] - training}
