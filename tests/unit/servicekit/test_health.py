"""What the standard health service answers for each name, from start to stop."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from millstream.errors import Overloaded
from servicekit.rpc.health import NOT_SERVING, SERVING, Health

messages: Any = health_pb2  # the stubs of types know no List yet
NAMES = ("", "readiness", "millstream.dataset.v1.DatasetService")


async def reported(health: Health, name: str) -> int:
    servicer: Any = health.servicer
    answer = await servicer.Check(health_pb2.HealthCheckRequest(service=name), None)
    return int(answer.status)


async def test_readiness_has_every_name_of_the_service_and_liveness_its_own() -> None:
    health = Health(names=NAMES[2:])
    await health.set("liveness", True)
    await health.set_ready("no store")
    assert (health.ready, health.reason) == (False, "no store")
    assert [await reported(health, name) for name in NAMES] == [NOT_SERVING] * 3
    assert await reported(health, "liveness") == SERVING
    await health.set_ready()
    assert (health.ready, health.reason) == (True, "")
    assert [await reported(health, name) for name in NAMES] == [SERVING] * 3


async def test_a_new_reason_replaces_the_old_one_while_it_is_not_ready() -> None:
    health = Health()
    await health.set_ready("no store")
    await health.set_ready("no model")
    assert (health.ready, health.reason) == (False, "no model")


async def test_after_a_stop_nothing_is_serving_whatever_is_set() -> None:
    health = Health(names=NAMES[2:])
    await health.set_ready()
    await health.stop()
    await health.set_ready("again")
    await health.set_ready()
    assert [await reported(health, name) for name in NAMES] == [NOT_SERVING] * 3


async def test_a_listing_has_the_state_of_every_name() -> None:
    health = Health(names=NAMES[2:])
    await health.set("liveness", True)
    await health.set_ready("no store")
    answer = await health.servicer.List(messages.HealthListRequest(), None)
    assert {name: found.status for name, found in answer.statuses.items()} == {
        "liveness": SERVING,
        **dict.fromkeys(("", "readiness", NAMES[2]), NOT_SERVING),
    }


async def test_more_names_than_a_listing_takes_are_refused() -> None:
    health = Health()
    for number in range(1001):
        await health.set(f"model/m{number}", True)
    with pytest.raises(Overloaded, match="1,001 names: call Check or Watch"):
        await health.servicer.List(messages.HealthListRequest(), None)
