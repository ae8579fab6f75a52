"""An operator's work, by the command line: dead letters, the status of all services, a start that fails."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import free_ports
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.defaults import SERVICES
from servicekit.bus.port import Message
from servicekit.facts.events import to_message
from tests.e2e.test_up import up
from tests.worlds.platform import World, publish, wait_until, world

GOOD = to_message(SnapshotCreated(dataset="words", number=1), "words", "an-event", "dataprep")
BROKEN = Message(GOOD.topic, "words", b"\xff\xfe\x00", GOOD.headers)
NO_HEADERS = Message(GOOD.topic, "words", GOOD.value, {})


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("platform")) as platform:
        yield platform


def json_of(platform: World, *words: str, code: int = 0) -> Any:
    return json.loads(platform.cli(*words, "-o", "json", code=code))


def letters(platform: World, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json_of(platform, "dlq", "list", "trainer", *more)
    return found


def test_a_message_that_cannot_be_parsed_is_found_shown_replayed_and_dropped(platform: World) -> None:
    assert letters(platform) == []
    publish(platform, BROKEN, NO_HEADERS)
    wait_until(lambda: len(letters(platform)) == 2, "two dead letters")
    broken, headless = sorted(letters(platform), key=lambda letter: "headers missing" in letter["reason"])
    assert broken["original_topic"] == GOOD.topic and "is no millstream.dataset.v1.DatasetEvent" in broken["reason"]
    shown = platform.cli("dlq", "show", "trainer", broken["id"])
    assert "fffe00" in shown and "header ce_id: an-event" in shown and broken["reason"] in shown
    assert json_of(platform, "dlq", "show", "trainer", headless["id"])["event"]["snapshot_created"]["number"] == "1"

    replayed = platform.cli("dlq", "replay", "trainer", broken["id"])
    assert platform.cli("dlq", "replay", "trainer", broken["id"]) == replayed, "a second replay changes nothing"
    wait_until(lambda: len(letters(platform)) == 2, "it still cannot be parsed, so it is a new letter")
    again = next(letter for letter in letters(platform) if letter["id"] != headless["id"])
    assert (again["value"], again["headers"]) == (broken["value"], broken["headers"]) and again["id"] != broken["id"]

    assert "--reason" in platform.cli("dlq", "drop", "trainer", "--all", code=2)
    assert "give ids" in platform.cli("dlq", "drop", "trainer", "--reason", "a test", code=2)
    assert platform.cli("dlq", "drop", "trainer", "--all", "--reason", "a test").count("dropped by local") == 2
    assert letters(platform) == [] and "no dead letters" in platform.cli("dlq", "replay", "trainer", "--all")
    actions = {letter["id"]: letter["resolution"]["action"] for letter in letters(platform, "--all")}
    assert actions == {
        broken["id"]: "ACTION_REPLAYED",
        headless["id"]: "ACTION_DROPPED",
        again["id"]: "ACTION_DROPPED",
    }
    assert "was replayed by local" in platform.cli("dlq", "drop", "trainer", broken["id"], "--reason", "x", code=1)
    assert json_of(platform, "dlq", "list", "registry") == [], "it does not subscribe to that topic"


def test_an_unknown_letter_or_service_is_one_sentence(platform: World) -> None:
    assert "no service" in platform.cli("dlq", "list", "nobody", code=1)
    assert "`millstream dlq list trainer`" in platform.cli("dlq", "show", "trainer", "0" * 32, code=1)
    assert "no letter's id" in platform.cli("dlq", "replay", "trainer", "7", code=1)


def test_the_status_of_a_healthy_platform(platform: World) -> None:
    wait_until(lambda: is_healthy(platform), "all is well")
    found = json_of(platform, "status")
    assert [one["service"] for one in found] == list(SERVICES)
    assert {one["service"] for one in found if "consumer" not in one} == {"dataprep"}
    assert {one["service"] for one in found if "outbox" not in one} == {"inference"}
    lines = platform.cli("status").splitlines()
    assert len(lines) == 6 and lines[1].startswith("dataprep\t127.0.0.1:")


def is_healthy(platform: World) -> bool:
    with platform.client() as client:
        found = [client.status(service) for service in SERVICES]
    return all(status.ready and status.blobs.ok and status.bus.ok for status in found)


def test_a_service_that_does_not_answer_is_reported(platform: World) -> None:
    (stopped,) = platform.pids("registry")
    os.kill(stopped, signal.SIGSTOP)
    try:
        error = platform.cli("status", "--timeout", "1", code=1)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert error.startswith("registry (127.0.0.1:") and len(error.splitlines()) == 1, error


def test_a_broken_store_is_reported_by_all_until_it_is_repaired(tmp_path: Path) -> None:
    with world(tmp_path / "state", kind="local") as platform:
        kept, there = tmp_path / "kept", platform.state / "blobs"
        there.rename(kept)
        there.write_text("no folder")

        with platform.client() as client:
            for service in SERVICES:
                wait_until(lambda service=service: client.status(service).blobs.problem, f"{service} has noticed")  # type: ignore[misc]
        (error,) = platform.cli("status", code=1).splitlines()
        assert all(service in error for service in SERVICES), error
        assert f"blobs: {there}" in error and "point MILLSTREAM_BLOBS at a folder that works" in error
        there.unlink()
        kept.rename(there)
        wait_until(lambda: is_healthy(platform), "all is well again")
        assert platform.cli("status")
        log = (platform.state / "logs/registry-0.log").read_text().splitlines()
        lines = [json.loads(line) for line in log if '"component": "blobs"' in line]
        assert [line["message"] for line in lines] == ["dependency unavailable", "dependency available again"]


def test_a_start_without_a_store_reports_what_it_waits_for_and_fails_with_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = ("--set", f"blobs=directory:{tmp_path / 'file'}")
    for seconds in ("8", "20", "45", "180"):  # a busy machine needs longer before every service has answered
        run = up(
            "--state",
            str(tmp_path / seconds),
            "--port-base",
            str(free_ports().base),
            *store,
            "--ready-seconds",
            seconds,
        )
        if "does not answer" not in run.stderr:
            break
    problem = f"{tmp_path / 'file'}: Not a directory; point MILLSTREAM_BLOBS at a folder that works"
    lines = [line for line in run.stderr.splitlines() if problem in line]
    assert run.returncode == 1 and len(lines) == 2, run.stderr
    assert lines[0].split()[1] == "waits:" and lines[1].endswith(f"registry, trainer: {problem}")


def test_a_start_without_a_bus_serves_and_warns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    settings = {"bus": f"sqlite:{tmp_path / 'file' / 'bus.sqlite'}"}
    with world(tmp_path / "state", kind="local", settings=settings) as platform:
        log = platform.state / "up.log"
        wait_until(lambda: "cannot use the bus, and serves without it" in log.read_text(), "a warning")
        assert log.read_text().count("warning:") == 1
        assert "bus: " in platform.cli("status", code=1)
