"""Other processes for the suites: `python -m tests.suites.processes JOB ADDRESS …`, each a few lines below."""

import asyncio
import hashlib
import os
import resource
import sys
import traceback
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from millstream.errors import Unavailable
from servicekit.bus.port import Bus, Message
from servicekit.runtime.backends import open_blobs, open_bus
from servicekit.runtime.settings import Settings

THREADS = 16
RETRY_SECONDS = 0.2


async def child(job: str, *arguments: str) -> Process:
    """Start a job; what it prints can be read from its stdout."""
    command = (sys.executable, "-m", "tests.suites.processes", job, *arguments)
    return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)


async def finish(process: Process) -> str:
    """All that the job prints. Fails if the job fails."""
    printed, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, f"a child ended with {process.returncode}"
    return printed.decode()


def together(processes: int, job: Callable[[int], None]) -> None:
    """Run the job in forked children which begin at the same moment, once the last is there."""
    gate, opening = os.pipe()
    children = []
    for number in range(processes):
        if not (pid := os.fork()):
            os.close(opening)
            os.read(gate, 1)
            failed = 1
            try:
                job(number)
                failed = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(failed)
        children.append(pid)
    os.close(opening)
    failures = [status for status in (os.waitpid(pid, 0)[1] for pid in children) if status]
    if failures:
        sys.exit(1)


async def publish_with_retry(bus: Bus, message: Message) -> None:
    """As an outbox does, since ten processes at once may time out on a busy machine."""
    while True:
        with suppress(Unavailable):
            return await bus.publish(message)
        await asyncio.sleep(RETRY_SECONDS)


def publish(address: str, topic: str, processes: str, count: str) -> None:
    async def messages(name: int) -> None:
        bus = open_bus(Settings(bus=address))
        for value in range(int(count)):
            await publish_with_retry(bus, Message(topic, f"{name}-{value % 7}", b"%d" % value))
        await bus.close()

    together(int(processes), lambda name: asyncio.run(messages(name)))


def publish_until_killed(address: str, topic: str) -> None:
    """Print each value once its publish is acknowledged."""

    async def forever() -> None:
        bus = open_bus(Settings(bus=address))
        for value in range(1_000_000):
            await bus.publish(Message(topic, "key", b"%d" % value))
            os.write(1, b"%d\n" % value)

    asyncio.run(forever())


def fork(address: str, topic: str, processes: str) -> None:
    """Use one bus object before the fork, in each child, and in the parent again."""
    bus = open_bus(Settings(bus=address))

    def send(value: str) -> None:
        asyncio.run(bus.publish(Message(topic, "key", value.encode())))

    send("before")
    together(int(processes), lambda number: send(str(number)))
    send("after")


def hold(address: str, topic: str, group: str) -> None:
    """Take messages and never commit them."""

    async def forever() -> None:
        subscription = open_bus(Settings(bus=address)).subscribe(group, [topic])
        await subscription.start()
        print("started", flush=True)
        while True:
            print("holds", len(await subscription.batch()), flush=True)

    asyncio.run(forever())


def race(address: str, processes: str, keys: str) -> None:
    """Each of 16 threads in each process tries to be the first at each key; the winners are printed."""

    async def tries(name: str) -> None:
        blobs = open_blobs(Settings(blobs=address))
        for number in range(int(keys)):
            if await blobs.put_if_absent(f"race/{number:03}", name.encode()):
                os.write(1, f"{number:03} {name}\n".encode())

    def threads(process: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda thread: asyncio.run(tries(f"{process}.{thread}")), range(THREADS)))

    together(int(processes), threads)


def upload(address: str, file: str) -> None:
    """Upload the file under one key after the other, without end."""

    async def forever() -> None:
        blobs = open_blobs(Settings(blobs=address))
        for number in range(1_000_000):
            await blobs.upload(f"uploads/{number:06}", Path(file))
            print(number, flush=True)

    asyncio.run(forever())


def put(address: str, lanes: str) -> None:
    """Put objects under their digests without end, with retries; print each key once it is acknowledged."""

    async def forever(lane: int) -> None:
        blobs = open_blobs(Settings(blobs=address))
        while True:
            data = os.urandom(1 << (10 + 3 * (lane % 4)))
            key = f"put/{hashlib.sha256(data).hexdigest()}"
            with suppress(Unavailable):
                if lane % 2:
                    await blobs.put(key, data)
                else:
                    assert await blobs.put_if_absent(key, data), "these random bytes are unique"
                os.write(1, f"{key}\n".encode())

    async def run() -> None:
        await asyncio.gather(*(forever(lane) for lane in range(int(lanes))))

    asyncio.run(run())


def stream(address: str, file: str, back: str) -> None:
    """Print by how many bytes memory grew for an upload, a download and a read, and the digest of what was read."""

    async def run() -> None:
        blobs = open_blobs(Settings(blobs=address))
        await blobs.put("small", b"x" * 100_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await blobs.upload("big", Path(file))
        await blobs.download("big", Path(back))
        digest = hashlib.sha256()
        async for chunk in blobs.read("big"):
            digest.update(chunk)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(grown * 1024, digest.hexdigest())

    asyncio.run(run())


JOBS: dict[str, Callable[..., None]] = {
    "fork": fork,
    "hold": hold,
    "publish": publish,
    "publish_until_killed": publish_until_killed,
    "put": put,
    "race": race,
    "stream": stream,
    "upload": upload,
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](*sys.argv[2:])
