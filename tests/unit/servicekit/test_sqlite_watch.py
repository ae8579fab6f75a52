"""The thread that watches a SQLite bus: it reports commits of others, renews leases, expels members, and survives faults."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servicekit.bus.port import Message
from servicekit.bus.sqlite.log import PARTITIONS, Log, MemberLeases
from servicekit.bus.sqlite.watch import Watch
from tests.worlds.waiting import HANG


class Listener:
    """Counts the calls of on_change."""

    def __init__(self) -> None:
        self.calls = 0
        self._called = threading.Condition()

    def __call__(self) -> None:
        with self._called:
            self.calls += 1
            self._called.notify_all()

    def wait_for_call_after(self, calls: int) -> None:
        with self._called:
            assert self._called.wait_for(lambda: self.calls > calls, HANG), "on_change was not called"


@contextmanager
def watching(path: Path, leases: MemberLeases) -> Iterator[Listener]:
    listener = Listener()
    watch = Watch(path, listener, lambda: leases)
    watch.start()
    try:
        yield listener
        assert watch.is_alive()
    finally:
        watch.ended.set()
        watch.join(HANG)


def test_a_commit_of_another_connection_is_reported(tmp_path: Path) -> None:
    log = Log(tmp_path / "bus.sqlite", 5.0)
    with watching(log.path, {}) as listener:
        listener.wait_for_call_after(0)
        for _ in range(3):
            calls = listener.calls
            log.append(Message("topic", "key", b"value"))
            listener.wait_for_call_after(calls)
    log.close()


def test_a_member_that_was_expelled_joins_again_and_its_partitions_are_reported(tmp_path: Path) -> None:
    log = Log(tmp_path / "bus.sqlite", 5.0)
    with watching(log.path, {"member": ("group", ["topic"])}) as listener:
        calls = listener.calls
        while len(log.held("member")) < PARTITIONS:  # it was never joined: the watch's renewal does it
            listener.wait_for_call_after(calls)
            calls = listener.calls
    log.close()


def test_a_dead_member_is_expelled_and_its_partitions_go_to_the_living(tmp_path: Path) -> None:
    log = Log(tmp_path / "bus.sqlite", 5.0)
    for member in ("dead", "alive"):
        log.join("group", ["topic"], member)
    with log.writing() as db:
        db.execute("UPDATE members SET expires = 0 WHERE member = 'dead'")
    with watching(log.path, {"alive": ("group", ["topic"])}) as listener:
        calls = listener.calls
        while len(log.held("alive")) < PARTITIONS:
            listener.wait_for_call_after(calls)
            calls = listener.calls
    assert not log.held("dead")
    log.close()


def test_a_fault_is_reported_to_waiting_subscriptions_and_the_watch_continues(tmp_path: Path) -> None:
    path = tmp_path / "bus.sqlite"
    path.write_bytes(b"no database " * 200)
    with watching(path, {}) as listener:
        listener.wait_for_call_after(0)
        path.unlink()
        log = Log(path, 5.0)
        log.append(Message("topic", "key", b"value"))
        calls = listener.calls
        log.append(Message("topic", "key", b"value"))
        listener.wait_for_call_after(calls)
    log.close()
