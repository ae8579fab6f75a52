"""The SQLite file of SqliteBus: created, opened, and its errors raised as Unavailable with what to do.

WAL with synchronous=NORMAL: a commit survives the death of any process. (A crash of the host may lose the newest events;
events are hints, and a resync finds the facts.)
"""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from millstream.errors import Unavailable

_OPEN_SECONDS = 20.0
_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, partition INTEGER NOT NULL,"
    " key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL)",
    "CREATE INDEX log_places ON log (topic, partition, position)",
    "CREATE TABLE members (member TEXT NOT NULL, grp TEXT NOT NULL, topic TEXT NOT NULL, expires REAL NOT NULL,"
    " PRIMARY KEY (member, topic))",
    "CREATE TABLE partitions (grp TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, owner TEXT,"
    " epoch INTEGER NOT NULL DEFAULT (abs(random() >> 33)), committed INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (grp, topic, partition))",
    "CREATE TABLE checks (id INTEGER PRIMARY KEY, done INTEGER NOT NULL)",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; wait, or end the process that holds it",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked; wait, or end the process that holds it",
    sqlite3.SQLITE_FULL: "free space (or raise the quota) on its file system",
    sqlite3.SQLITE_IOERR: "free space on its file system, and check the system log for a failing disk",
    sqlite3.SQLITE_READONLY: "let this user write the file and its folder (permissions, a read-only mount)",
    sqlite3.SQLITE_PERM: "let this user write the file and its folder (permissions, a read-only mount)",
    sqlite3.SQLITE_CANTOPEN: "let this user create files in its folder, and check that the path is no folder",
    sqlite3.SQLITE_CORRUPT: "move it away; events are hints, so a new one is created and nothing is lost",
    sqlite3.SQLITE_NOTADB: "move it away; events are hints, so a new one is created and nothing is lost",
}


class SqliteFile:
    """One connection, opened when first needed and again after a fault or when the file was replaced.

    It belongs to one thread. `lock_seconds` is how long to wait for another process's lock; `opened` counts the connections.
    """

    def __init__(self, path: Path, lock_seconds: float) -> None:
        self.path, self.lock_seconds = path, lock_seconds
        self.opened = 0
        self._db: sqlite3.Connection | None = None
        self._file = (0, 0)

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._db:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that takes the write lock at its start. Raises Unavailable."""
        with self.using() as db, transaction(db, "BEGIN IMMEDIATE"):
            yield db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one snapshot of the file. Raises Unavailable."""
        with self.using() as db, transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """The connection, without a transaction. Raises Unavailable for every error of SQLite or the system."""
        try:
            yield self._connection()
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code not in _BUSY:
                self.close()
            advice = _ADVICE.get(code, "move it away if another program created it")
            raise Unavailable(f"{self.path}: {error}; {advice}", path=str(self.path)) from error
        except OSError as error:
            self.close()
            raise Unavailable(
                f"{self.path}: {error.strerror}; point MILLSTREAM_BUS at a folder that this user can write",
                path=str(self.path),
            ) from error

    def _connection(self) -> sqlite3.Connection:
        if self._db and self._file == _identity(self.path):
            return self._db
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=self.lock_seconds, isolation_level=None)
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, _identity(self.path)
        self.opened += 1
        return db


def _identity(path: Path) -> tuple[int, int]:
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return 0, 0


def _prepare(db: sqlite3.Connection) -> None:
    """Set up the connection, and create the tables unless they exist.

    Many processes may do this to a new file at once. SQLite fails some of them as locked without waiting (switching to WAL
    does not call the busy handler), so this retries.
    """
    deadline = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            if not _schema_version(db):
                db.execute("PRAGMA journal_mode = WAL")
                with transaction(db, "BEGIN IMMEDIATE"):
                    for statement in _SCHEMA if not _schema_version(db) else ():
                        db.execute(statement)
            if _schema_version(db) != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"tables of version {_schema_version(db)}, not {_SCHEMA_VERSION}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))


def _schema_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Commit at the end, or roll back on any exception; `begin` is the statement to begin with."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise
