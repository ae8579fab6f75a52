"""Measure MinioBlobs beside bare minio-py on one real MinIO: `python -m bench.blobs [--out results.json]`, about 1 min.

Claims: a put or get of 1 kB and of 300 MB is at least 0.9 times as fast as minio-py's own put_object, get_object,
fput_object and fget_object, although ours checks what it reads by a checksum and goes on where the wire broke; and
neither direction holds more than a few parts of a file in memory.

minio-py blocks, so code in an event loop must call it in a thread; a thread switch takes 0.1 to 0.2 ms. Both are measured:
`blobs_vs_bare_minio` is the worst of four beside the blocking calls alone, and `blobs_vs_minio_in_a_thread` beside the same
calls made from an event loop, as ours are. Peers take turns, in an order that changes; a ratio is the median over the turns
of the peer's seconds / our seconds.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minio import Minio as Client

from deploy.servers.minio import Minio
from servicekit.blobs.s3.blobs import MinioBlobs
from servicekit.blobs.s3.options import MinioOptions

ROUNDS = 7
SMALL, CALLS, TURNS = 1000, 30, 10
LARGE = 300 << 20
MIB = 1 << 20
BUCKET = "bench"
JOBS = ("put_1kB", "get_1kB", "put_300MB", "get_300MB")
RATIO_LIMIT, MEMORY_LIMIT_MIB = 0.9, 64.0


@dataclass(frozen=True)
class Store:
    """The store's address and key files, as passed to a child process."""

    endpoint: str
    access_key_file: str
    secret_key_file: str

    def blobs(self) -> MinioBlobs:
        options = MinioOptions(access_key_file=self.access_key_file, secret_key_file=self.secret_key_file)
        return MinioBlobs(f"{self.endpoint}/{BUCKET}", options)

    def bare(self) -> Client:
        key, secret = (Path(file).read_text() for file in (self.access_key_file, self.secret_key_file))
        return Client(self.endpoint.removeprefix("http://"), key, secret, secure=False, region="us-east-1")


class Ours:
    """The jobs as the platform does them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.blobs, self.folder = store.blobs(), folder
        self.made = 0

    async def put_small(self, data: bytes) -> None:
        for number in range(CALLS):
            await self.blobs.put(f"ours/{number}", data)

    async def put_small_if_absent(self, data: bytes) -> None:
        for _ in range(CALLS):
            self.made += 1
            if not await self.blobs.put_if_absent(f"ours/absent-{self.made}", data):
                raise RuntimeError("the object exists already, although its key is new")

    async def get_small(self, data: bytes) -> None:
        for number in range(CALLS):
            if await self.blobs.get(f"ours/{number}") != data:
                raise RuntimeError("not what was put")

    async def put_large(self, file: Path) -> None:
        await self.blobs.upload("ours/large", file)

    async def get_large(self) -> None:
        await self.blobs.download("ours/large", self.folder / "ours")


class Bare:
    """The same with minio-py alone, as its documentation shows it; `in_thread` as an event loop has to call it."""

    def __init__(self, store: Store, folder: Path, in_thread: bool) -> None:
        self.client, self.folder = store.bare(), folder
        self.name, self.in_thread = "thread" if in_thread else "bare", in_thread

    async def call(self, function: Callable[..., object], *arguments: object) -> None:
        if self.in_thread:
            await asyncio.to_thread(function, *arguments)
        else:
            function(*arguments)

    async def put_small(self, data: bytes) -> None:
        for number in range(CALLS):
            await self.call(self.client.put_object, BUCKET, f"{self.name}/{number}", io.BytesIO(data), len(data))

    async def get_small(self, data: bytes) -> None:
        for number in range(CALLS):
            await self.call(self._get, f"{self.name}/{number}", data)

    async def put_large(self, file: Path) -> None:
        await self.call(self.client.fput_object, BUCKET, f"{self.name}/large", str(file))

    async def get_large(self) -> None:
        await self.call(self.client.fget_object, BUCKET, f"{self.name}/large", str(self.folder / self.name))

    def _get(self, key: str, data: bytes) -> None:
        answer = self.client.get_object(BUCKET, key)
        try:
            if answer.read() != data:
                raise RuntimeError("not what was put")
        finally:
            answer.close()
            answer.release_conn()


Times = dict[str, list[float]]


async def measure(store: Store, folder: Path, rounds: int) -> Times:
    """Seconds of each job in each turn, as `put_1kB ours` and the like."""
    file, data = folder / "file", os.urandom(SMALL)
    with file.open("wb") as out:
        for _ in range(LARGE // MIB):
            out.write(os.urandom(MIB))
    ours = Ours(store, folder)
    peers: tuple[tuple[str, Ours | Bare], ...] = (
        ("ours", ours),
        ("bare", Bare(store, folder, in_thread=False)),
        ("thread", Bare(store, folder, in_thread=True)),
    )
    await ours.blobs.check()
    times: Times = {}

    async def turn(number: int, job: str, work: Callable[[Ours | Bare], Awaitable[None]]) -> None:
        for name, peer in peers[number % 3 :] + peers[: number % 3]:
            (folder / name).unlink(missing_ok=True)  # ext4 writes back at once what replaces a file; ours are all new
            began = time.perf_counter()
            await work(peer)
            times.setdefault(f"{job} {name}", []).append(time.perf_counter() - began)

    for number in range(rounds + 1):
        if number == 1:
            times.clear()
        for part in range(TURNS):
            await turn(number + part, "put_1kB", lambda peer: peer.put_small(data))
            await turn(number + part, "get_1kB", lambda peer: peer.get_small(data))
        await turn(number, "put_300MB", lambda peer: peer.put_large(file))
        await turn(number, "get_300MB", lambda peer: peer.get_large())
        began = time.perf_counter()
        await ours.put_small_if_absent(data)
        times.setdefault("put_if_absent_1kB ours", []).append(time.perf_counter() - began)
        print(f"round {number} of {rounds}" + ("" if number else " (warms up, not counted)"), flush=True)
    return times


def memory(store: Store, folder: Path, job: str) -> float:
    """How much the peak memory of a fresh process grows by a 300 MB upload or download, in MiB."""
    command = [sys.executable, "-m", "bench.blobs", "--job", job, store.endpoint, store.access_key_file]
    command += [store.secret_key_file, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def grow(job: str, store: Store, folder: Path) -> None:
    """Print the growth. Linux reports the peak as VmHWM; a first small call has allocated what is allocated once."""
    blobs = store.blobs()

    async def work() -> float:
        await blobs.check()
        before = peak()
        if job == "upload":
            await blobs.upload("ours/memory", folder / "file")
        elif job == "download":
            await blobs.download("ours/memory", folder / "memory")
        else:
            async for _ in blobs.read("ours/memory"):
                pass
        return peak() - before

    print(asyncio.run(work()))


def peak() -> float:
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024


def report(times: Times, grown: Mapping[str, float], out: Path) -> None:
    results: dict[str, Any] = {}
    for name, took in sorted(times.items()):
        scale, unit = (1000 / CALLS, "ms a call") if "1kB" in name else (1.0, "s")
        low, mid, high = (scale * value for value in (min(took), statistics.median(took), max(took)))
        results[name] = {"unit": unit, "median": mid, "min": low, "max": high}
        print(f"{name}: {mid:.3f} ({low:.3f} … {high:.3f}) {unit}")
    ratios: dict[str, float] = {}
    for peer, whole in (("thread", "blobs_vs_minio_in_a_thread"), ("bare", "blobs_vs_bare_minio")):
        for job in JOBS:
            pairs = zip(times[f"{job} ours"], times[f"{job} {peer}"], strict=True)
            ratios[f"{job}_{whole.partition('_')[2]}"] = statistics.median(theirs / ours for ours, theirs in pairs)
        ratios[whole] = min(ratios[f"{job}_{whole.partition('_')[2]}"] for job in JOBS)
    for job, mib in grown.items():
        print(f"RATIO memory_of_{job} {mib / MEMORY_LIMIT_MIB:.3f} of {MEMORY_LIMIT_MIB:g} MiB for 300 MB")
    for name, ratio in ratios.items():
        print(f"RATIO {name} {ratio:.3f}" + (f" at least {RATIO_LIMIT:g}" if name.startswith("blobs") else ""))
    out.write_text(json.dumps({"results": results, "ratios": ratios, "grown_mib": grown}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.blobs", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--job", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, endpoint, access_key_file, secret_key_file, folder = options.job
        return grow(job, Store(endpoint, access_key_file, secret_key_file), Path(folder))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Minio(folder / "minio")
        server.start()
        try:
            store = Store(server.endpoint, str(server.access_key_file), str(server.secret_key_file))
            times = asyncio.run(measure(store, folder, options.rounds))
            grown = {job: memory(store, folder, job) for job in ("upload", "download", "read")}
        finally:
            server.stop()
    report(times, grown, options.out)


if __name__ == "__main__":
    main()
