"""Log lines."""

import asyncio
import io
import json
import logging
from typing import Any

import pytest

from millstream.trace import continue_trace
from servicekit import logs


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_logs_are_json_lines_with_the_fields_of_their_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # setup_logs() takes the handlers away, and pytest's own are among them.
    monkeypatch.setattr(root, "handlers", [])
    try:
        logs.setup_logs("trainer", "info")

        async def task(run_id: str) -> None:
            continue_trace("")
            with logs.fields(run_id=run_id):
                await asyncio.sleep(0.001)
                with logs.fields(step="1"):
                    logging.getLogger("x").info("inside", extra={"loss": 0.5})
            logging.getLogger("x").info("outside\nof it")

        await asyncio.gather(task("a"), task("b"))
        logging.getLogger("x").debug("unseen")
        try:
            raise ValueError("తెలుగు \ud800")
        except ValueError:
            logging.getLogger("x").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = lines_of(stream)
    inside = [line for line in lines if line["message"] == "inside"]
    assert {(line["run_id"], line["step"], line["loss"]) for line in inside} == {("a", "1", 0.5), ("b", "1", 0.5)}
    assert len({line["trace_id"] for line in inside}) == 2
    assert all("run_id" not in line for line in lines if line["message"] == "outside\nof it")
    assert "ValueError" in lines[-1]["traceback"] and lines[-1]["level"] == "error"
    assert {line["service"] for line in lines} == {"trainer"} and len(lines) == 5
