"""Services of this version run on the stored state of an earlier one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.flow import Flow
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import BY_NAME
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.ids import hash_of
from servicekit.runtime.backends import open_blobs
from servicekit.runtime.settings import Settings
from tests.contract.old_messages.kept import Corpus, corpora
from tests.contract.old_messages.kinds import strangers
from tests.e2e.invariants import check_versions, keys
from tests.worlds.platform import World, wait_until, world
from tests.worlds.waiting import FLOW

MODEL, DATASET, OTHER_ALIAS = "toy", "toy-words", "candidate"
LEFT_OPEN = "left-open"
SEED = 99
SETTINGS = {"lease_seconds": "5", "slots": "2", "gpus": "0,1"}
"""Its runs ask for a GPU. The lease of a worker on another machine expires after five seconds without a heartbeat."""


@pytest.fixture(scope="module", params=corpora(), ids=lambda corpus: corpus.version)
def old(request: pytest.FixtureRequest) -> Corpus:
    found: Corpus = request.param
    return found


@pytest.fixture(scope="module")
def platform(old: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Today's services on the old objects, with an empty bus: events are only hints."""
    state = tmp_path_factory.mktemp("old-state")
    asyncio.run(old.put_into(open_blobs(Settings(blobs=f"directory:{state / 'blobs'}"))))
    with world(state, kind="local", resync_seconds=1.0, settings=SETTINGS) as platform:
        yield platform


def read_in(old: Corpus, prefix: str) -> dict[str, Any]:
    """The answers that the old version read from its objects under a prefix, by the rest of their keys."""
    found = {key.removeprefix(prefix): answer for key, answer in old.answers.items() if key.startswith(prefix)}
    assert found, f"version {old.version} left nothing under {prefix}"
    return found


def test_every_old_object_is_listed(platform: World, old: Corpus) -> None:
    with platform.client() as client:
        for dataset in client.datasets():
            numbers = [int(number) for number in read_in(old, f"datasets/{dataset.name}/ledger/")]
            assert [snapshot.number for snapshot in client.snapshots(dataset.name)] == numbers[::-1]
        versions = [(version.version, version.run_id) for version in client.versions(MODEL)][::-1]
        answers = read_in(old, f"models/{MODEL}/versions/").values()
        assert versions[: len(answers)] == [(entry["number"], entry["message"]["run_id"]) for entry in answers]
        reports = {report.report_id: EvaluationReport.Status.Name(report.status) for report in client.reports(MODEL)}
        stored = {key: told for key, told in read_in(old, f"reports/{MODEL}/").items() if key.endswith("/report")}
        statuses = {told["report_id"]: told.get("status") for told in stored.values()}
        assert {report_id: reports[report_id] for report_id in statuses} == statuses
        history = [(entry.number, entry.version) for entry in client.alias_history(MODEL, OTHER_ALIAS)][::-1]
        moves = read_in(old, f"models/{MODEL}/aliases/{OTHER_ALIAS}/").values()
        assert history == [(entry["number"], int(entry["message"]["version"])) for entry in moves]


def test_the_rows_are_those_of_the_old_snapshot(platform: World) -> None:
    with platform.client() as client:
        snapshot = client.snapshot(DATASET, 1)
        splits = ("train", "validation", "test")
        assert sum(len(list(client.rows(DATASET, 1, split))) for split in splits) == snapshot.rows.kept > 0
        assert len(list(client.rows(DATASET, 1, "quarantine"))) == snapshot.rows.quarantined > 0


def test_an_old_file_is_unchanged(platform: World, old: Corpus, tmp_path: Path) -> None:
    """Its rows are cleaned, split and named as they were, or one would be in two splits of one dataset."""
    newest = list(read_in(old, f"datasets/{DATASET}/ledger/").values())[-1]
    source = newest["message"]["source"]
    file = tmp_path / source["file_name"]
    file.write_bytes(old.objects[f"uploads/{source['digest']}"])
    with platform.client() as client:
        asked = client.import_dataset(file, DATASET, mode="replace")
        ended = client.wait_import(DATASET, asked.request_id, timeout=FLOW)
        assert (ended.state, ended.snapshot_number) == (Import.STATE_UNCHANGED, newest["number"])


def test_an_old_version_is_served(platform: World) -> None:
    with platform.client() as client:
        client.wait_served(MODEL, 1, alias=OTHER_ALIAS, timeout=FLOW)
        answer = client.classify(MODEL, ["the mill was kind and sweet", "cold and dull"], alias=OTHER_ALIAS)
        assert [found.label for found in answer.classifications] == ["good", "bad"]
        assert answer.served.version == 1


def test_a_run_that_was_left_open_resumes_from_its_old_checkpoint(platform: World, old: Corpus) -> None:
    with platform.client() as client:
        run = client.wait_run(LEFT_OPEN, timeout=FLOW)
        assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
        printed = b"".join(part.chunk for part in client.run_log(LEFT_OPEN) if part.attempt == 2).decode()
        steps = max(int(key.split("/")[1]) for key in read_in(old, f"checkpoints/{LEFT_OPEN}/"))
        assert '"message": "resuming"' in printed and f'"step": {steps}' in printed, printed
        assert (run.lineage.attempts, run.lineage.inexact_from_step) == (2, steps), "it began on another processor"


def test_the_fact_of_an_old_outbox_marker_is_published(platform: World, old: Corpus) -> None:
    markers = [answer["key"] for key, answer in read_in(old, "outbox/").items()]
    wait_until(lambda: keys(platform.blobs(), "outbox/") == [], "an empty outbox")
    published = asyncio.run(published_ids(platform))
    assert published >= {hash_of(key) for key in markers}


def test_a_new_version_of_the_old_snapshot_becomes_champion(platform: World, old: Corpus) -> None:
    with platform.client() as client:
        run = client.wait_run(client.train(MODEL, dataset_number=1, config={"seed": SEED}).run_id, timeout=FLOW)
        flow = Flow(client, patience=FLOW)
        version = flow.register(MODEL, run)
        report = flow.evaluate(version)
        assert report.status == EvaluationReport.STATUS_PASSED
        flow.promote(version, report)
        flow.serve(version)
        assert client.classify(MODEL, ["kind and sweet"]).served.version == version.version
        runs = {found.run_id for found in client.runs()}
        assert runs == read_in(old, "runs/outcomes/").keys() | {LEFT_OPEN, run.run_id}, "nothing was trained again"
        check_versions(platform.blobs(), client, MODEL)


def test_what_today_writes_is_described(platform: World) -> None:
    unknown = strangers(keys(platform.blobs(), ""))
    assert unknown == [], "describe these objects in tests/contract/old_messages/kinds.py, then collect again"


async def published_ids(platform: World) -> set[str]:
    """The ids of all events on the bus."""
    bus = platform.bus()
    tail = bus.tail(list(BY_NAME), from_start=True)
    await tail.start()
    found: set[str] = set()
    while await tail.lag():
        found |= {message.headers["ce_id"].decode() for message in await tail.batch()}
    await tail.close()
    await bus.close()
    return found
