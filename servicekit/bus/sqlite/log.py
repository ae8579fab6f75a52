"""The tables of SqliteBus: messages, the members of groups with their leases, and each group's committed positions.

A Log is synchronous and belongs to one thread. Every change is one transaction, and so atomic. SQLite has one writer at
a time, so `position` grows in the order of commits and serves as the offset in every partition.

A lease expires at a time on CLOCK_MONOTONIC, which is the same for all processes of a host and cannot be set. It restarts
at boot, so a lease that expires later than a new one would was taken before a reboot and is void.
"""

import heapq
import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from millstream.errors import Unavailable
from servicekit.bus.port import Message, Received
from servicekit.bus.sqlite.file import SqliteFile

Place = tuple[str, int]
MemberLeases = Mapping[str, tuple[str, Sequence[str]]]  # group and topics by member

PARTITIONS = 4
LEASE_SECONDS = 2.5
_MESSAGES_AT_ONCE = 256
_BYTES_AT_ONCE = 8 << 20
_TRIM_EVERY = 1000
_LIVE = "(expires > :now AND expires <= :now + :lease)"


@dataclass(frozen=True)
class Held:
    """A partition that a member owns.

    `epoch` grows with every change of owner, which fences an old owner's commits. It begins at random, so that a file which
    replaced another has other epochs.
    """

    epoch: int
    committed: int


def partition_of(key: str) -> int:
    """The partition of every message with that key."""
    return zlib.crc32(key.encode()) % PARTITIONS


def assign(owners: Mapping[int, str | None], live: Sequence[str]) -> Mapping[int, str | None]:
    """The owner of each partition: spread evenly over the live members, moving as few as possible."""
    if not live:
        return dict.fromkeys(owners)
    shares: dict[str, list[int]] = {member: [] for member in live}
    for partition, owner in sorted(owners.items()):
        if owner in shares:
            shares[owner].append(partition)
    for partition, owner in sorted(owners.items()):
        if owner not in shares:
            min(shares.values(), key=len).append(partition)
    while len(most := max(shares.values(), key=len)) - len(least := min(shares.values(), key=len)) > 1:
        least.append(most.pop())
    return {partition: member for member, share in shares.items() for partition in share}


class Log(SqliteFile):
    """The operations on the tables; `retain` is how many messages of each topic are kept. Any may raise Unavailable."""

    def __init__(self, path: Path, lock_seconds: float, retain: int = 100_000) -> None:
        super().__init__(path, lock_seconds)
        self.retain = retain

    def append(self, message: Message) -> None:
        """Store a message; now and then trim the log."""
        headers = json.dumps({name: value.decode("latin-1") for name, value in message.headers.items()})
        row = (message.topic, partition_of(message.key), message.key, message.value, headers)
        with self.writing() as db:
            position = db.execute(
                "INSERT INTO log (topic, partition, key, value, headers) VALUES (?, ?, ?, ?, ?)", row
            ).lastrowid
        if (position or 0) % max(1, min(_TRIM_EVERY, self.retain // 4)) == 0:
            with suppress(Unavailable):  # the message is stored; the next trim does it
                self._trim()

    def _trim(self) -> None:
        """Find the excess messages without the write lock, and take it for the deletion only."""
        cuts: list[tuple[str, int]] = []
        with self.reading() as db:
            for topic, count in db.execute("SELECT topic, count(*) FROM log GROUP BY topic").fetchall():
                oldest = "SELECT position FROM log WHERE topic = ? ORDER BY position LIMIT ?"
                excess = (topic, max(0, count - self.retain))
                cuts += [(topic, cut) for (cut,) in db.execute(f"SELECT max(position) FROM ({oldest})", excess) if cut]
        if cuts:
            partitions = ", ".join(map(str, range(PARTITIONS)))
            query = f"DELETE FROM log WHERE topic = ? AND partition IN ({partitions}) AND position <= ?"
            with self.writing() as db:
                db.executemany(query, cuts)

    def end(self) -> int:
        """The newest position."""
        with self.reading() as db:
            return int(db.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()[0])

    def version(self) -> tuple[int, int]:
        """Changes once another connection has committed anything. Costs microseconds."""
        with self.using() as db:
            return self.opened, int(db.execute("PRAGMA data_version").fetchone()[0])

    def state(self) -> tuple[int, int]:
        """Changes with each message and each rebalance, not with a renewed lease."""
        with self.reading() as db:
            newest = db.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()[0]
            changes = db.execute("SELECT coalesce(sum(epoch), 0) FROM partitions").fetchone()[0]
            return int(newest), int(changes)

    def read(self, places: Mapping[Place, int]) -> Sequence[Received]:
        """The oldest messages after the given positions, by position; at least one if there is any."""
        found: list[Received] = []
        size = 0
        with self.reading() as db:
            ordered = heapq.merge(*(_after(db, *place, start) for place, start in places.items()))
            positions = list(islice(ordered, _MESSAGES_AT_ONCE))
            marks = ", ".join("?" * len(positions))
            rows = db.execute(
                "SELECT topic, key, value, headers, partition, position FROM log "
                f"WHERE position IN ({marks}) ORDER BY position",
                positions,
            )
            for topic, key, value, headers, partition, position in rows:
                read = {name: text.encode("latin-1") for name, text in json.loads(headers).items()}
                found.append(Received(topic, key, value, read, partition, position))
                size += len(value)
                if size >= _BYTES_AT_ONCE:
                    break
            rows.close()
        return found

    def count(self, places: Mapping[Place, int]) -> int:
        """The number of messages after the given positions."""
        query = "SELECT count(*) FROM log WHERE topic = ? AND partition = ? AND position > ?"
        with self.reading() as db:
            return sum(int(db.execute(query, (*place, start)).fetchone()[0]) for place, start in places.items())

    def held(self, member: str) -> Mapping[Place, Held]:
        """The partitions that a member owns."""
        query = "SELECT topic, partition, epoch, committed FROM partitions WHERE owner = ?"
        with self.reading() as db:
            return {(topic, partition): Held(*rest) for topic, partition, *rest in db.execute(query, (member,))}

    def commit(self, group: str, member: str, places: Mapping[Place, tuple[int, int]]) -> None:
        """Store (epoch, position) by partition; one that was reassigned since keeps its new owner's position."""
        with self.writing() as db:
            db.executemany(
                "UPDATE partitions SET committed = ? WHERE grp = ? AND topic = ? AND partition = ?"
                " AND owner = ? AND epoch = ? AND committed < ?",
                [(to, group, *place, member, epoch, to) for place, (epoch, to) in places.items()],
            )

    def join(self, group: str, topics: Sequence[str], member: str) -> None:
        """Take a lease as a member of the group, and rebalance."""
        with self.writing() as db:
            _join(db, group, topics, member)

    def renew(self, members: MemberLeases) -> None:
        """Renew the leases of these members; one that was expelled joins again."""
        with self.writing() as db:
            for member, (group, topics) in members.items():
                expires = time.monotonic() + LEASE_SECONDS
                if not db.execute("UPDATE members SET expires = ? WHERE member = ?", (expires, member)).rowcount:
                    _join(db, group, topics, member)

    def leave(self, member: str) -> None:
        """Drop the member's lease, and rebalance its groups."""
        with self.writing() as db:
            groups = db.execute("SELECT DISTINCT grp FROM members WHERE member = ?", (member,)).fetchall()
            db.execute("DELETE FROM members WHERE member = ?", (member,))
            for (group,) in groups:
                _rebalance(db, group)

    def expel(self) -> None:
        """Rebalance the groups of members whose lease is void; writes only if there are any."""
        query = f"SELECT DISTINCT grp FROM members WHERE NOT {_LIVE}"
        with self.reading() as db:
            if not db.execute(query, _now()).fetchall():
                return
        with self.writing() as db:
            for (group,) in db.execute(query, _now()).fetchall():
                _rebalance(db, group)

    def check(self) -> None:
        """Raise Unavailable unless the file can be written."""
        with self.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO checks (id, done) SELECT 1, count(*) + coalesce(max(done), 0) FROM checks"
            )


def _after(db: sqlite3.Connection, topic: str, partition: int, start: int) -> Iterable[int]:
    query = "SELECT position FROM log WHERE topic = ? AND partition = ? AND position > ? ORDER BY position LIMIT ?"
    return [position for (position,) in db.execute(query, (topic, partition, start, _MESSAGES_AT_ONCE))]


def _now() -> Mapping[str, float]:
    """The time to compare leases with: taken inside the transaction, so that it is never older than a lease in it."""
    return {"now": time.monotonic(), "lease": LEASE_SECONDS}


def _join(db: sqlite3.Connection, group: str, topics: Sequence[str], member: str) -> None:
    expires = time.monotonic() + LEASE_SECONDS
    for topic in topics:
        db.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (member, group, topic, expires))
        db.executemany(
            "INSERT OR IGNORE INTO partitions (grp, topic, partition) VALUES (?, ?, ?)",
            [(group, topic, partition) for partition in range(PARTITIONS)],
        )
    _rebalance(db, group)


def _rebalance(db: sqlite3.Connection, group: str) -> None:
    db.execute(f"DELETE FROM members WHERE grp = :group AND NOT {_LIVE}", {**_now(), "group": group})
    topics = db.execute("SELECT DISTINCT topic FROM partitions WHERE grp = ?", (group,)).fetchall()
    for (topic,) in topics:
        members = db.execute("SELECT member FROM members WHERE grp = ? AND topic = ? ORDER BY rowid", (group, topic))
        live = [member for (member,) in members]
        query = "SELECT partition, owner FROM partitions WHERE grp = ? AND topic = ?"
        owners = dict(db.execute(query, (group, topic)).fetchall())
        db.executemany(
            "UPDATE partitions SET owner = ?, epoch = epoch + 1 WHERE grp = ? AND topic = ? AND partition = ?",
            [(new, group, topic, place) for place, new in assign(owners, live).items() if new != owners[place]],
        )
