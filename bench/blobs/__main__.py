"""Measure MinioBlobs beside bare minio-py on one real MinIO: `python -m bench.blobs [--out results.json]`, about 2 min.

Claims: a put or get of 1 kB and of 300 MB is at least 0.9 times as fast as minio-py's own put_object, get_object,
fput_object and fget_object, although ours checks what it reads by a checksum and goes on where the wire broke; and
neither direction holds more than a few parts of a file in memory. Both take turns, and which is first changes every
round. A ratio is the median over the rounds of bare seconds / our seconds; `RATIO blobs_vs_bare_minio` is the worst of
the four.
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
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minio import Minio as Client

from deploy.servers.minio import Minio
from servicekit.access import MinioAccess
from servicekit.minio import MinioBlobs

ROUNDS = 7
SMALL, SMALL_CALLS = 1000, 300
LARGE = 300 << 20
MIB = 1 << 20
BUCKET = "bench"
RATIO_LIMIT, MEMORY_LIMIT_MIB = 0.9, 64.0


@dataclass(frozen=True)
class Store:
    """Where the store is, as a child process is told it."""

    endpoint: str
    access_key_file: str
    secret_key_file: str

    def blobs(self) -> MinioBlobs:
        access = MinioAccess(access_key_file=self.access_key_file, secret_key_file=self.secret_key_file)
        return MinioBlobs(f"{self.endpoint}/{BUCKET}", access)

    def bare(self) -> Client:
        key, secret = (Path(file).read_text() for file in (self.access_key_file, self.secret_key_file))
        return Client(self.endpoint.removeprefix("http://"), key, secret, secure=False, region="us-east-1")


class Ours:
    """The four jobs as the platform does them. Each returns seconds."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.blobs, self.folder = store.blobs(), folder

    def run(self, job: Callable[[], Coroutine[Any, Any, None]]) -> float:
        async def timed() -> float:
            began = time.perf_counter()
            await job()
            return time.perf_counter() - began

        return asyncio.run(timed())

    def put_small(self, data: bytes) -> float:
        async def job() -> None:
            for number in range(SMALL_CALLS):
                await self.blobs.put(f"ours/{number}", data)

        return self.run(job)

    def put_small_if_absent(self, data: bytes, run: int) -> float:
        async def job() -> None:
            for number in range(SMALL_CALLS):
                if not await self.blobs.put_if_absent(f"ours/absent-{run}-{number}", data):
                    raise RuntimeError("an object of an earlier round is there")

        return self.run(job)

    def get_small(self, data: bytes) -> float:
        async def job() -> None:
            for number in range(SMALL_CALLS):
                if await self.blobs.get(f"ours/{number}") != data:
                    raise RuntimeError("not what was put")

        return self.run(job)

    def put_large(self, file: Path) -> float:
        return self.run(lambda: self.blobs.upload("ours/large", file))

    def get_large(self) -> float:
        return self.run(lambda: self.blobs.download("ours/large", self.folder / "ours"))


class Bare:
    """The same with minio-py alone, as its documentation shows it."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.client, self.folder = store.bare(), folder

    def run(self, job: Callable[[], object]) -> float:
        began = time.perf_counter()
        job()
        return time.perf_counter() - began

    def put_small(self, data: bytes) -> float:
        def job() -> None:
            for number in range(SMALL_CALLS):
                self.client.put_object(BUCKET, f"bare/{number}", io.BytesIO(data), len(data))

        return self.run(job)

    def get_small(self, data: bytes) -> float:
        def job() -> None:
            for number in range(SMALL_CALLS):
                answer = self.client.get_object(BUCKET, f"bare/{number}")
                try:
                    if answer.read() != data:
                        raise RuntimeError("not what was put")
                finally:
                    answer.close()
                    answer.release_conn()

        return self.run(job)

    def put_large(self, file: Path) -> float:
        return self.run(lambda: self.client.fput_object(BUCKET, "bare/large", str(file)))

    def get_large(self) -> float:
        return self.run(lambda: self.client.fget_object(BUCKET, "bare/large", str(self.folder / "bare")))


Times = dict[str, list[float]]


def measure(store: Store, folder: Path, rounds: int) -> Times:
    """Seconds of each job in each round, as `put_1kB ours` and the like."""
    file, data = folder / "file", os.urandom(SMALL)
    with file.open("wb") as out:
        for _ in range(LARGE // MIB):
            out.write(os.urandom(MIB))
    peers: tuple[tuple[str, Ours | Bare], ...] = (("ours", Ours(store, folder)), ("bare", Bare(store, folder)))
    asyncio.run(store.blobs().check())
    times: Times = {}

    def note(job: str, name: str, seconds: float) -> None:
        times.setdefault(f"{job} {name}", []).append(seconds)

    for number in range(rounds + 1):
        turn = peers if number % 2 else peers[::-1]
        for name, peer in turn:
            note("put_1kB", name, peer.put_small(data))
        for name, peer in turn:
            note("get_1kB", name, peer.get_small(data))
        for name, peer in turn:
            note("put_300MB", name, peer.put_large(file))
        for name, peer in turn:
            note("get_300MB", name, peer.get_large())
        note("put_if_absent_1kB", "ours", Ours(store, folder).put_small_if_absent(data, number))
        print(f"round {number} of {rounds}" + ("" if number else " (warms up, not counted)"), flush=True)
    return {name: took[1:] for name, took in times.items()}


def memory(store: Store, folder: Path, job: str) -> float:
    """How much the peak of a process grows, in MiB, by a 300 MB upload or download: asked of a process of its own."""
    asked = [sys.executable, "-m", "bench.blobs", "--job", job, store.endpoint, store.access_key_file]
    asked += [store.secret_key_file, str(folder)]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def grow(job: str, store: Store, folder: Path) -> None:
    """Print it. Linux tells the peak of a process as VmHWM; the first small call has made what is made once."""
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
        scale, unit = (1000 / SMALL_CALLS, "ms a call") if "1kB" in name else (1.0, "s")
        low, mid, high = (scale * value for value in (min(took), statistics.median(took), max(took)))
        results[name] = {"unit": unit, "median": mid, "min": low, "max": high}
        print(f"{name}: {mid:.3f} ({low:.3f} … {high:.3f}) {unit}")
    ratios = {
        job: statistics.median(
            bare / ours for ours, bare in zip(times[f"{job} ours"], times[f"{job} bare"], strict=True)
        )
        for job in ("put_1kB", "get_1kB", "put_300MB", "get_300MB")
    }
    for job, ratio in ratios.items():
        print(f"RATIO {job}_vs_bare_minio {ratio:.3f}")
    for job, mib in grown.items():
        print(f"RATIO memory_of_{job} {mib / MEMORY_LIMIT_MIB:.3f} of {MEMORY_LIMIT_MIB:g} MiB for 300 MB")
    worst = min(ratios.values())
    print(f"RATIO blobs_vs_bare_minio {worst:.3f} at least {RATIO_LIMIT:g}")
    ratios["blobs_vs_bare_minio"] = worst
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
            times = measure(store, folder, options.rounds)
            grown = {job: memory(store, folder, job) for job in ("upload", "download", "read")}
        finally:
            server.stop()
    report(times, grown, options.out)


if __name__ == "__main__":
    main()
