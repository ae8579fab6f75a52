"""The identity of a process, whether a process of this host is running, and how many files this one may open."""

import os
import resource
import socket
from functools import cache
from pathlib import Path

from millstream.operations.v1.stored_pb2 import Process

MOST_FILES = 1 << 16
"""Open files and sockets of one process; some machines set no limit, and some code walks through all that are allowed."""


def raise_file_limit() -> None:
    """Let this process open as many files and sockets as it may by itself, up to MOST_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@cache
def this_process() -> Process:
    """The identity of this process, unique over hosts and reboots."""
    pid = os.getpid()
    start = _start_time(pid)
    if start is None:
        return Process(host=socket.gethostname(), pid=pid)
    return Process(
        host=socket.gethostname(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        pid_namespace=os.readlink("/proc/self/ns/pid"),
        pid=pid,
        start_time=start,
    )


def process_here(pid: int, start_time: int | None = None) -> Process:
    """The identity of a process of this host: the one with that pid now (start time 0: none), or with that start time."""
    process = Process()
    process.CopyFrom(this_process())
    process.pid, process.start_time = pid, (_start_time(pid) or 0) if start_time is None else start_time
    return process


def is_running(process: Process) -> bool | None:
    """Whether the process is running; None: unknown, because it is not of this host, boot and pid namespace."""
    here = this_process()
    # Every machine's initial pid namespace has the same name, and machines from one image share their host name.
    theirs, ours = ((p.host, p.boot_id, p.pid_namespace) for p in (process, here))
    if not here.boot_id or theirs != ours:
        return None
    return _start_time(process.pid) == process.start_time


def _start_time(pid: int) -> int | None:
    """When the process started, in ticks since boot (proc(5), field 22); None: it is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])
