"""Damaged objects of one model: what is loaded stays served, other models are served, callers learn what is damaged."""

import pytest

from millstream.errors import DataLoss
from millstream.inference.v1.inference_service_pb2 import ListLoadProblemsRequest, RetryModelVersionRequest
from millstream.inference.v1.refusal_pb2 import Refusal
from millstream.registry.v1.events_pb2 import ModelApplied
from tests.worlds.inference import Replica, World
from tests.worlds.waiting import until

OBJECTS = ["spec/words", "alias/words", "version/words/1"]


@pytest.fixture(autouse=True)
async def two_models(world: World) -> None:
    for model in ("words", "others"):
        await world.register(world.folders[1], model)
        await world.apply(model)
        await world.promote(1, model)


async def problems(replica: Replica) -> dict[str, str]:
    found = await replica.service.ListLoadProblems(ListLoadProblemsRequest())
    return {problem.model: problem.reason for problem in found.problems}


@pytest.mark.parametrize("damaged", OBJECTS)
async def test_after_a_restart_the_others_are_served_and_the_damaged_model_once_it_is_restored(
    world: World, damaged: str
) -> None:
    world.registry.damaged.add(damaged)
    replica = await world.start().ready()
    assert replica.version("others") == 1, "its readiness waits for no damaged model"
    assert replica.health["model/others"] and not replica.health.get("model/words")
    with pytest.raises(DataLoss, match=f"alias champion of model words is not served: {damaged} is damaged"):
        await replica.classify("good", model="words")
    assert await problems(replica) == {"words": f"{damaged} is damaged"}
    world.registry.damaged.clear()
    await until(lambda: replica.version("words") == 1)
    assert (await replica.classify("good", model="words")).served.version == 1
    await until(lambda: replica.health["model/words"])
    assert await problems(replica) == {}


@pytest.mark.parametrize("damaged", OBJECTS)
async def test_what_is_loaded_stays_served(world: World, damaged: str) -> None:
    replica = await world.start().ready()
    world.registry.damaged.add(damaged)
    await world.publish(ModelApplied(model="words", number=1), "words")
    await replica.work.resync()
    loaded = damaged.startswith("version")  # that is not read again
    await until(lambda: loaded or replica.work.damage.texts() == [f"{damaged} is damaged"])
    assert (await replica.classify("good", model="words")).served.version == 1
    assert bool(await problems(replica)) != loaded


async def test_a_damaged_refusal_is_named_and_a_lift_removes_it(world: World) -> None:
    key = "refusals/words/0000000001/refusal"
    await world.blobs.put(key, Refusal(model="words", reason="it is broken").SerializeToString()[:-3])
    replica = await world.start().ready()
    with pytest.raises(DataLoss, match=key):
        await replica.classify("good", model="words")
    request = RetryModelVersionRequest(model="words", version=1)
    assert not (await replica.service.RetryModelVersion(request)).lift.HasField("refusal")
    await until(lambda: replica.version("words") == 1)


async def test_a_damaged_load_attempt_keeps_no_version_from_its_callers(world: World) -> None:
    await world.blobs.put("refusals/words/0000000001/attempts/some", b"\xff")
    replica = await world.start().ready()
    assert replica.version("words") == 1
