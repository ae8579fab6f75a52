"""Inference between its callers and the registry: the service object and its Work, on memory adapters."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from millstream.errors import InvalidArgument, NotFound, Unavailable
from millstream.inference.v1.inference_service_pb2 import ClassifyRequest, ListServedModelsRequest
from millstream.registry.v1.events_pb2 import ModelApplied
from millstream.registry.v1.model_pb2 import AliasEntry
from recipekit.predictor import predict
from servicekit.blobs import artifacts
from servicekit.facts.events import from_message
from tests.recipes.toy_words.sample import rows
from tests.worlds.inference import World, metric
from tests.worlds.waiting import HANG, until

TEXTS = [row["text"] for row in rows(40, seed=11)]


@pytest.fixture(autouse=True)
def no_error_of_work_is_a_bug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if "bug" in record.getMessage()]


async def test_serves_after_the_alias_moved(world: World) -> None:
    replica = await world.start().ready()
    await world.apply()
    await until(lambda: "words" in replica.serving.models())
    with pytest.raises(NotFound, match="no version under alias champion"):
        await replica.classify("a bright mill")
    version = await world.register(world.folders[2])
    await world.promote(version)
    await until(lambda: replica.version() == 1)
    answer = await replica.classify(*TEXTS)
    expected = predict(world.predictor(2), [{"text": text} for text in TEXTS])
    assert [(c.label, c.confidence, dict(c.scores)) for c in answer.classifications] == [
        (p["label"], p["confidence"], p["scores"]) for p in expected
    ]
    served = answer.served
    assert (served.model, served.version, served.alias) == ("words", 1, "champion")
    assert (served.run_id, served.snapshot_id) == ("run-1", "snapshot-1")
    assert (served.backend, served.precision) == ("python", "fp64")
    assert served.artifact_digest == artifacts.describe(world.folders[2]).digest
    assert answer.timing.prepare.ToNanoseconds() > 0 and answer.timing.infer.ToNanoseconds() > 0
    assert replica.health == {"model/words": True, "model/words/champion": True}
    assert metric("model_info", model="words", version="1", digest=served.artifact_digest) == 1
    listed = (await replica.service.ListServedModels(ListServedModelsRequest())).models
    assert [(m.served, list(m.tasks)) for m in listed] == [(served, ["classify"])]
    await until(lambda: any(m.topic == "millstream.inference.v1" for m in world.bus.log))
    fact: Any = from_message(next(m for m in world.bus.log if m.topic == "millstream.inference.v1")).fact
    assert (fact.model, fact.alias, fact.version) == ("words", "champion", 1)


async def test_swaps_under_constant_load_without_an_error_and_frees_the_old(world: World) -> None:
    numbers = [await world.register(folder) for folder in world.folders]
    await world.apply()
    await world.promote(numbers[0])
    replica = await world.start().ready()
    expected = {number: predict(world.predictor(number - 1), [{"text": text} for text in TEXTS]) for number in numbers}
    seen: set[int] = set()
    stop = asyncio.Event()

    async def caller(start: int) -> int:
        count = 0
        while not stop.is_set():
            some = [(start + count + i) % len(TEXTS) for i in range(1 + count % 5)]
            answer = await replica.classify(*(TEXTS[i] for i in some))
            version = int(answer.served.version)
            seen.add(version)
            for i, got in zip(some, answer.classifications, strict=True):
                assert got.confidence == expected[version][i]["confidence"], (version, i)
            count += 1
        return count

    callers = [asyncio.create_task(caller(i)) for i in range(8)]
    old: list[weakref.ref[Any]] = []
    for version in [2, 3, 1, 3, 2, 1, 2, 3]:
        old.append(weakref.ref(replica.serving.loaded("words")["champion"].predictor))
        await world.promote(version)
        await until(lambda version=version: replica.version() == version)
        await until(lambda version=version: version in seen)
        await asyncio.sleep(0.01)
    stop.set()
    assert sum(await asyncio.gather(*callers)) > 50
    assert seen == {1, 2, 3}
    await replica.serving.released()
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)
    digest = artifacts.describe(world.folders[0]).digest
    assert metric("model_info", model="words", version="1", digest=digest) is None


async def test_a_request_in_flight_finishes_on_the_version_it_started_on(world: World) -> None:
    numbers = [await world.register(folder) for folder in world.folders[:2]]
    await world.apply()
    await world.promote(numbers[0])
    replica = await world.start().ready()
    version = replica.serving.loaded("words")["champion"]
    release = threading.Event()

    async def hold() -> None:
        async with version.batcher.admit() as admitted:
            await admitted.infer(lambda: release.wait(HANG))

    held = asyncio.create_task(hold())
    asked = asyncio.create_task(replica.classify("a bright mill"))
    await until(lambda: version.batcher.in_flight == 2)
    await world.promote(numbers[1])
    await until(lambda: replica.version() == 2)
    assert (await replica.classify("a bright mill")).served.version == 2
    assert not asked.done()
    release.set()
    assert (await asked).served.version == 1
    await held


async def test_answers_and_stays_ready_with_everything_else_down(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    replica = await world.start(full_resync_seconds=0.02).ready()
    world.registry.down = world.blobs.down = world.bus.down = True
    await until(lambda: world.registry.asked_in_vain > 1)
    assert await replica.is_ready()
    assert (await replica.classify(*TEXTS)).served.version == 1
    # A version that cannot be fetched now is served once it can be.
    world.registry.down = False
    world.registry.entries["words", "champion"].append(AliasEntry(model="words", alias="champion", number=2, version=2))
    world.blobs.down = False
    await world.register(world.folders[1])
    world.blobs.down, world.blobs.asked_in_vain = True, 0
    await until(lambda: world.blobs.asked_in_vain)
    assert (await replica.classify(*TEXTS)).served.version == 1 and await replica.is_ready()
    world.blobs.down = False
    await until(lambda: replica.version() == 2)


async def test_is_not_ready_before_it_has_read_the_registry_and_loaded_what_it_names(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    world.registry.down = True
    replica = world.start()
    await until(lambda: world.registry.asked_in_vain)
    assert not await replica.is_ready()
    with pytest.raises(Unavailable, match="not read from the registry yet"):
        await replica.classify("a bright mill")
    world.registry.down, world.blobs.down = False, True
    await until(lambda: world.blobs.asked_in_vain)
    assert not await replica.is_ready()
    with pytest.raises(Unavailable, match="try again"):
        await replica.classify("a bright mill")
    world.blobs.down = False
    await replica.ready()
    assert replica.version() == 1


async def test_starts_on_a_registry_without_models(world: World) -> None:
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="there are: none yet"):
        await replica.classify("a bright mill")


async def test_an_alias_that_is_no_longer_served_is_unloaded(world: World) -> None:
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply("words", "champion", "next")
    await world.promote(1)
    await world.promote(2, alias="next")
    replica = await world.start().ready()
    assert (await replica.classify("a mill", alias="next")).served.version == 2
    digest = artifacts.describe(world.folders[1]).digest
    await world.apply("words")
    await until(lambda: "next" not in replica.serving.loaded("words"))
    with pytest.raises(NotFound, match="not served by alias 'next' but by champion"):
        await replica.classify("a mill", alias="next")
    await until(lambda: replica.health["model/words/next"] is False)
    assert metric("model_info", model="words", version="2", digest=digest) is None
    del world.registry.models["words"]
    await world.publish(ModelApplied(model="words", number=2), "words")
    await until(lambda: not replica.serving.models())
    await until(lambda: replica.health["model/words"] is False)
    await replica.serving.released()


async def test_two_aliases_of_one_version_share_it(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply("words", "champion", "stable")
    await world.promote(1)
    await world.promote(1, alias="stable")
    replica = await world.start().ready()
    loaded = replica.serving.loaded("words")
    assert loaded["champion"] is loaded["stable"]
    assert (await replica.classify("a mill", alias="stable")).served.alias == "stable"
    await world.promote(0, alias="stable")
    await until(lambda: replica.version(alias="stable") == 0)
    assert (await replica.classify("a mill")).served.version == 1


async def test_an_alias_entry_older_than_one_already_seen_is_ignored_and_asked_for_again(world: World) -> None:
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply()
    await world.promote(1)
    await world.promote(2)
    replica = await world.start().ready()
    assert replica.version() == 2
    world.registry.stale_entry = world.registry.entries["words", "champion"][0]
    await replica.resynced()
    assert replica.version() == 2
    world.registry.stale_entry = None
    await world.register(world.folders[2])
    world.registry.entries["words", "champion"].append(AliasEntry(model="words", alias="champion", number=3, version=3))
    await until(lambda: replica.version() == 3)  # nothing but the retry says so


async def test_a_comparison_asks_for_no_model_that_is_served_as_it_is_listed(world: World) -> None:
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply()
    await world.apply("idle")
    await world.promote(1)
    replica = await world.start().ready()
    assert world.registry.asked == {"GetModel": 2}
    await replica.resynced()
    assert world.registry.asked == {"GetModel": 2}
    world.registry.entries["words", "champion"].append(AliasEntry(model="words", alias="champion", number=2, version=2))
    await replica.resynced()
    assert (replica.version(), world.registry.asked["GetModel"]) == (2, 3)
    world.registry.models["words"].append("shadow")
    await replica.resynced()
    assert (replica.version(), world.registry.asked["GetModel"]) == (0, 4), "champion is served no more"


async def test_a_registry_that_lists_no_aliases_is_asked_for_each(world: World) -> None:
    """One of before Model.aliases, while the platform is upgraded."""
    world.registry.shows_aliases = False
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply("words", "champion", "shadow")
    await world.promote(1)
    await world.promote(2, alias="shadow")
    replica = await world.start().ready()
    assert (replica.version(), replica.version(alias="shadow"), world.registry.asked["GetAlias"]) == (1, 2, 2)


async def test_two_replicas_may_share_a_cache(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    first, second = world.start(), world.start()
    await first.ready()
    await second.ready()
    assert first.version() == second.version() == 1
    assert [path.name for path in world.cache.iterdir()] == [artifacts.describe(world.folders[2]).digest]


@pytest.mark.parametrize(
    ("request_", "field_", "text"),
    [
        (ClassifyRequest(texts=["a"]), "model", "model is empty"),
        (ClassifyRequest(model="Not A Name", texts=["a"]), "model", "lower-case"),
        (ClassifyRequest(model="words"), "texts", "texts is empty"),
        (ClassifyRequest(model="words", texts=["a"] * 1025), "texts", "at most 1024"),
        (ClassifyRequest(model="words", texts=["a", ""]), "texts[1]", "at least 1 character"),
    ],
)
async def test_a_refusal_names_the_field(world: World, request_: ClassifyRequest, field_: str, text: str) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(InvalidArgument, match=text) as refused:
        await replica.service.Classify(request_)
    assert refused.value.field == field_


async def test_an_unknown_model_names_those_that_exist(world: World) -> None:
    await world.apply("words")
    await world.apply("books")
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="there are: books, words"):
        await replica.classify("a mill", model="birds")


def test_importing_the_service_brings_no_heavy_library() -> None:
    heavy = "{'torch', 'numpy', 'sklearn', 'matplotlib', 'jinja2', 'transformers'}"
    script = f"import sys, services.inference.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
