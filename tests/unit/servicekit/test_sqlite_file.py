"""The SQLite file under the bus: transactions are all or nothing, and every error says what to do."""

import sqlite3
from pathlib import Path

import pytest

from millstream.errors import Unavailable
from servicekit.bus.sqlite.file import SqliteFile, transaction

PUT = "INSERT INTO checks (id, done) VALUES (?, 0)"
COUNT = "SELECT count(*) FROM checks"


def count(file: SqliteFile) -> int:
    with file.reading() as db:
        return int(db.execute(COUNT).fetchone()[0])


def test_a_transaction_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "deep" / "bus.sqlite", 1.0)
    with file.writing() as db:
        db.execute(PUT, (1,))
    with pytest.raises(ZeroDivisionError), file.writing() as db:
        db.execute(PUT, (2,))
        raise ZeroDivisionError
    assert count(file) == 1
    file.close()
    assert count(file) == 1, "another connection is opened"
    assert file.opened == 2


def test_the_log_is_synced_before_it_is_copied_into_the_file(tmp_path: Path) -> None:
    """Without it a power cut could leave a file that is no database, which a person would have to remove."""
    with SqliteFile(tmp_path / "bus.sqlite", 1.0).using() as db:
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 1], "1: synchronous=NORMAL"


def test_a_reader_sees_one_snapshot(tmp_path: Path) -> None:
    reader, writer = (SqliteFile(tmp_path / "bus.sqlite", 1.0) for _ in range(2))
    with reader.reading() as db:
        assert db.execute(COUNT).fetchone() == (0,)
        with writer.writing() as other:
            other.execute(PUT, (1,))
        assert db.execute(COUNT).fetchone() == (0,)
    assert count(reader) == 1


def test_a_replaced_file_is_opened_anew(tmp_path: Path) -> None:
    file, fresh = SqliteFile(tmp_path / "bus.sqlite", 1.0), SqliteFile(tmp_path / "fresh.sqlite", 1.0)
    with file.writing() as db:
        db.execute(PUT, (1,))
    assert count(fresh) == 0
    fresh.close()
    for side in ("", "-wal", "-shm"):
        file.path.with_name(f"bus.sqlite{side}").unlink()
    fresh.path.replace(file.path)
    assert count(file) == 0


def test_a_lock_held_by_another_process_is_unavailable_and_the_connection_stays(tmp_path: Path) -> None:
    file, holder = SqliteFile(tmp_path / "bus.sqlite", 0.0), SqliteFile(tmp_path / "bus.sqlite", 0.0)
    assert count(file) == 0
    with holder.writing(), pytest.raises(Unavailable, match="another process keeps it locked"), file.writing():
        raise AssertionError("two writers at once")
    with file.writing() as db:
        db.execute(PUT, (1,))
    assert file.opened == 1


def test_a_file_of_another_program_or_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no database " * 200)
    with pytest.raises(Unavailable, match=r"text: .*move it away"):
        count(SqliteFile(tmp_path / "text", 1.0))
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Unavailable, match="tables of version 99, not 1"):
        count(SqliteFile(tmp_path / "newer", 1.0))


def test_a_bug_in_a_statement_is_not_raised_as_unavailable(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "bus.sqlite", 1.0)
    with pytest.raises(sqlite3.ProgrammingError), file.using() as db:
        db.execute(PUT, (1, 2, 3))


def test_a_failed_rollback_hides_no_error() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(ZeroDivisionError), transaction(db, "BEGIN"):
        db.execute("ROLLBACK")
        raise ZeroDivisionError
