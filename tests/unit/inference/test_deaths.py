"""Processes that die while they load a version: in a row on one host they end its tries there, else they are chance."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.inference.v1.inference_service_pb2 import ListLoadProblemsRequest, RetryModelVersionRequest
from millstream.operations.v1.stored_pb2 import Claim
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.ids import new_id
from servicekit.processes import process_here
from services.inference.store import Store
from services.inference.versions.loader import DEADLY_LOADS
from tests.worlds.inference import Replica, World, dead_attempt
from tests.worlds.waiting import until


async def problem(replica: Replica) -> str:
    (found,) = (await replica.service.ListLoadProblems(ListLoadProblemsRequest())).problems
    assert not found.refused
    return str(found.reason)


async def test_deaths_in_a_row_on_this_host_end_the_tries_until_an_operator_asks(world: World) -> None:
    await world.register(world.folders[1])
    for number in range(1, DEADLY_LOADS + 1):
        await dead_attempt(world, in_a_row=number)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert "3 processes of this host died in a row" in await problem(replica)
    assert not [key for key in world.blobs._keys if key.endswith("/refusal")], "other hosts may have the memory"
    replica.time = 10**9
    await replica.resynced()
    assert replica.version() == 0
    await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words", version=1))
    await until(lambda: replica.version() == 1)


@pytest.mark.parametrize("hosts", [("", "", ""), ("a", "b", "c"), ("a", "a", "a")])
async def test_deaths_at_once_or_on_other_hosts_are_no_reason(hosts: tuple[str, ...], world: World) -> None:
    """Three replicas load the champion when the power goes."""
    await world.register(world.folders[1])
    for number, host in enumerate(hosts, start=1):
        await dead_attempt(world, in_a_row=number if host else 1, host=host)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1


@pytest.mark.parametrize(("host", "deaths"), [("", 2), ("a", 0)])
async def test_in_another_container_only_the_age_proves_a_death(host: str, deaths: int, world: World) -> None:
    for number in (1, 2, 3):
        await dead_attempt(world, in_a_row=number, host=host, namespace="pid:[9]")
    async with Store(world.blobs, 600).attempt("words", 1) as seen:
        assert seen == 0, "none is old yet"
    async with Store(world.blobs, 0).attempt("words", 1) as seen:
        assert seen == deaths, "all but the newest are, and those of another host do not count"


DYING = """
import asyncio, os, sys
from pathlib import Path
from servicekit.blobs.directory import DirectoryBlobs
from services.inference.store import Store

async def main():
    async with Store(DirectoryBlobs(Path(sys.argv[1])), 600).attempt("words", 1) as deaths:
        print(deaths, flush=True)
        sys.stdin.readline()
        os._exit(9)

asyncio.run(main())
"""


async def deaths_seen(root: Path) -> int:
    async with Store(DirectoryBlobs(root), 600).attempt("words", 1) as deaths:
        return deaths


async def dying(root: Path) -> tuple[asyncio.subprocess.Process, int]:
    """A process that loads the version until its input ends, and how many deaths in a row it saw."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, str(root), stdin=pipe, stdout=pipe)
    assert process.stdout
    return process, int(await process.stdout.readline())


async def test_processes_that_die_one_after_the_other_are_counted(tmp_path: Path) -> None:
    for before in range(DEADLY_LOADS):
        process, seen = await dying(tmp_path)
        await process.communicate(b"\n")
        assert (process.returncode, seen) == (9, before)
    assert await deaths_seen(tmp_path) == DEADLY_LOADS


async def test_processes_that_die_at_once_are_counted_as_one(tmp_path: Path) -> None:
    running = [await dying(tmp_path) for _ in range(3)]
    assert [seen for _, seen in running] == [0, 0, 0]
    assert await deaths_seen(tmp_path) == 0, "they still run"
    for process, _ in running:
        await process.communicate(b"\n")
    assert await deaths_seen(tmp_path) == 1


async def test_a_load_that_succeeds_forgives_two_deaths(world: World) -> None:
    await world.register(world.folders[1])
    for number in (1, 2):
        await dead_attempt(world, in_a_row=number)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1
    assert not [key for key in world.blobs._keys if "/attempts/" in key]


async def test_loads_of_running_processes_do_not_count(world: World) -> None:
    sleeper = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        claim = Claim(number=9, process=process_here(sleeper.pid))
        await world.blobs.put(f"refusals/words/0000000001/attempts/{new_id()}", claim.SerializeToString())
        await world.register(world.folders[1])
        await world.apply()
        await world.promote(1)
        replica = await world.start().ready()
        assert replica.version() == 1
    finally:
        await sleeper.communicate(b"\n")
