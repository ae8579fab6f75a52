"""The identity of a process, and whether a process of this host is running."""

import os
import socket
from functools import cache
from pathlib import Path

from millstream.operations.v1.stored_pb2 import Process


@cache
def this_process() -> Process:
    """Names this process for ever."""
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
    """Names a process of this host: the one that has the pid now (start time 0 when none has), or had it at that start."""
    process = Process()
    process.CopyFrom(this_process())
    process.pid, process.start_time = pid, (_start_time(pid) or 0) if start_time is None else start_time
    return process


def is_running(process: Process) -> bool | None:
    """Whether the process lives, as far as this host can tell; None: it cannot, because the process is elsewhere."""
    here = this_process()
    # The first namespace has the same name on every machine, and machines made from one image share their host name.
    there, place = ((p.host, p.boot_id, p.pid_namespace) for p in (process, here))
    if not here.boot_id or there != place:
        return None
    return _start_time(process.pid) == process.start_time


def _start_time(pid: int) -> int | None:
    """Ticks after boot at which the process began (proc(5), field 22); None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    words = stat[stat.rindex(")") + 2 :].split()
    return None if words[0] in "ZX" else int(words[19])
