"""Troubles that pass say nothing against a version, and one that kills or hangs its measurement disturbs nothing else."""

import errno
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import MillstreamError, Overloaded, PermissionDenied, Unauthenticated
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest
from millstream.operations.v1.stored_pb2 import Process
from servicekit.blobs import artifacts
from servicekit.children import run_child
from servicekit.processes import is_running, process_here
from services.evaluator import attempts
from services.evaluator.evaluate import ChampionDied, MachineTrouble
from services.evaluator.reconcile import EvaluationKey
from tests.worlds.evaluator import MODEL, Replica, World, trained, troubled
from tests.worlds.waiting import until

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR


def remarks(report: EvaluationReport) -> list[str]:
    """The notes, but for the one on how few rows a test has."""
    return [note for note in report.notes if "rows were compared" not in note]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def reported(replica: Replica) -> EvaluationReport:
    """The only report, once it is there."""

    async def there() -> bool:
        return bool(await replica.store.reports(MODEL))

    await until(there)
    (report,) = await replica.store.reports(MODEL)
    return report


@pytest.mark.parametrize(
    "error", [Unauthenticated("t"), PermissionDenied("r"), Overloaded("o")], ids=lambda e: e.reason
)
@pytest.mark.parametrize("peer", ["registry.GetModelVersion", "dataprep.GetSnapshot"])
async def test_a_peer_that_refuses_this_services_token_for_a_while_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, peer: str, error: MillstreamError
) -> None:
    await world.version()
    name, _, method = peer.partition(".")
    service = getattr(world, name)
    original, refusals = getattr(service, method), [error] * 3

    async def refuses_at_first(request: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await original(request)

    monkeypatch.setattr(service, method, refuses_at_first)
    replica = world.replica()
    async with replica.running():
        assert (await reported(replica)).status == PASSED
    assert not refusals


async def ends(world: World) -> list[AttemptEnd]:
    keys = [listed.key async for listed in world.blobs.list("reports/") if listed.key.endswith("/end")]
    return [AttemptEnd.FromString(await world.blobs.get(key)) for key in keys]


async def process_at(hint: Path) -> Process:
    """The process that wrote its id there."""

    async def there() -> bool:
        return hint.exists() and hint.read_text() != ""

    await until(there)
    return process_here(int(hint.read_text()))


@pytest.fixture
def tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest after a trouble of the machine."""
    monkeypatch.setattr(attempts, "FIRST_REST_SECONDS", 0.0)


DEATHS = {"killed": "SIGKILL: is there enough memory", "bug": "KeyError"}


@pytest.mark.parametrize("trouble", DEATHS)
async def test_a_version_that_kills_its_measurement_ends_in_an_error_that_says_how(
    world: World, tmp_path: Path, trouble: str
) -> None:
    await world.version(troubled(tmp_path, trouble))
    replica = world.replica()
    async with replica.running():
        report = await reported(replica)
    assert report.status == ERROR
    assert DEATHS[trouble] in report.error
    assert [end.counts for end in await ends(world)] == [True] * 3


async def test_a_version_that_hangs_is_ended_and_keeps_no_other_waiting(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = await world.version(troubled(tmp_path, "hang"))
    await world.version()

    async def limited(module: str, request: bytes, limit_seconds: float) -> bytes:
        short = hangs.artifact.digest in request.decode()
        return await run_child(module, request, 0.5 if short else limit_seconds)

    monkeypatch.setattr("services.evaluator.evaluate.run_child", limited)
    replica = world.replica()

    async def both() -> bool:
        return len(await replica.store.reports(MODEL)) == 2

    async with replica.running():
        await until(both)
    first, second = sorted(await replica.store.reports(MODEL), key=lambda report: report.version)
    assert (first.status, second.status) == (ERROR, PASSED)
    assert "ended at its time limit of 0.5 s" in first.error
    assert [end.counts for end in await ends(world)] == [True] * 3


async def test_the_evaluator_answers_while_a_model_holds_its_interpreter_and_a_stop_ends_the_model(
    world: World, tmp_path: Path
) -> None:
    hint = tmp_path / "hint"
    await world.version(troubled(tmp_path, "hang", hint=hint))
    replica = world.replica()
    async with replica.running():
        process = await process_at(hint)
        assert is_running(process)
        request = ListEvaluationReportsRequest(model=MODEL)
        assert not (await replica.service.ListEvaluationReports(request)).reports
        assert not list(await ends(world))
    assert is_running(process) is False
    assert [end.counts for end in await ends(world)] == [False]
    assert {path.name for path in replica.evaluate.evaluator.cache.folder.glob("[!.]*")} == {
        version.artifact.digest for version in world.registry.made
    }


@pytest.mark.parametrize(("whose", "trouble"), [("version", "memory"), ("champion", "disk"), ("champion", "device")])
@pytest.mark.usefixtures("tireless")
async def test_a_trouble_of_this_machine_is_waited_for_and_is_no_verdict(
    world: World, tmp_path: Path, whose: str, trouble: str
) -> None:
    while_there = tmp_path / "trouble"
    while_there.touch()
    artifact = troubled(tmp_path, trouble, only_while=while_there)
    for own in (whose == "champion", whose == "version"):
        await world.version(artifact if own else trained())
    world.champion(1)
    replica = world.replica()
    for _ in range(attempts.MOST_FAILURES):
        with pytest.raises(MachineTrouble):
            await replica.evaluate.reconcile(EvaluationKey(MODEL, 2))
    assert [(end.counts, end.champion) for end in await ends(world)] == [(False, False)] * 3
    while_there.unlink()
    report = await replica.report(2)
    assert report.status == PASSED and not remarks(report)
    assert report.metrics[0].HasField("champion")


async def test_a_machine_in_trouble_rests_and_makes_no_attempt_meanwhile(world: World, tmp_path: Path) -> None:
    await world.version(troubled(tmp_path, "memory"))
    replica = world.replica()
    with pytest.raises(MachineTrouble, match="no memory for 8 GiB"):
        await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
    rests = [await replica.evaluate.reconcile(EvaluationKey(MODEL, 1)) for _ in range(3)]
    assert all(rest and rest > 0 for rest in rests)
    assert len(await ends(world)) == 1
    assert attempts.FIRST_REST_SECONDS < attempts.LONGEST_REST_SECONDS


@pytest.mark.usefixtures("tireless")
async def test_a_champion_that_kills_its_measurement_is_left_out_and_its_challenger_has_another_chance(
    world: World, tmp_path: Path
) -> None:
    await world.version(troubled(tmp_path, "killed"))
    await world.version()
    await world.version(trained(steps=59))
    world.champion(1)
    replica = world.replica()
    for _ in range(3):
        with pytest.raises(ChampionDied, match="SIGKILL"):
            await replica.evaluate.reconcile(EvaluationKey(MODEL, 3))
    report = await replica.report(3)
    assert report.status == FAILED, "its gain over the champion is not known"
    assert report.metrics[0].candidate > 0.7 and not report.metrics[0].HasField("champion")
    (remark,) = remarks(report)
    assert "given up after 3 failed attempts" in remark and "SIGKILL" in remark
    assert await replica.evaluate.reconcile(EvaluationKey(MODEL, 3)) is None
    world.champion(2)
    another = await replica.report(3)
    assert (another.status, another.champion_version, remarks(another)) == (PASSED, 2, [])


@pytest.mark.parametrize(
    ("whose", "damage"),
    [(0, "half a file"), (0, "no file"), (1, "half a file"), (1, "other bytes"), (0, "unseen"), (1, "unseen")],
)
async def test_a_damaged_copy_in_the_cache_is_fetched_again(world: World, whose: int, damage: str) -> None:
    await world.version(trained(steps=59))
    await world.version()
    world.champion(1)
    replica = world.replica()
    digest = world.registry.made[whose].artifact.digest
    file = await replica.evaluate.evaluator.cache.fetch(digest) / "model.json"
    data = file.read_bytes()
    if damage == "no file":
        file.unlink()
    elif damage == "unseen":  # no golden row has this word
        file.write_bytes(data.replace(b'"weights": {"bad": {', b'"weights": {"bad": {"unseen": 9.0, '))
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "half a file" else data.replace(b"good", b"evil"))
    report = await replica.report(2)
    assert report.status == PASSED
    assert report.metrics[0].HasField("champion") and not remarks(report)
    assert artifacts.describe(file.parent).digest == digest, "a damaged copy was measured"
    assert not await ends(world)


async def test_what_a_model_prints_does_not_disturb_its_report(world: World, tmp_path: Path) -> None:
    await world.version(troubled(tmp_path, "prints"))
    assert (await world.replica().report()).status == PASSED


async def test_a_disk_that_cannot_hold_the_rows_is_a_trouble_of_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.version()
    replica = world.replica()

    async def full(key: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world.blobs, "download", full)
    with pytest.raises(MachineTrouble, match="No space left"):
        await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
    assert [end.counts for end in await ends(world)] == [False]
