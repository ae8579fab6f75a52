"""The champion under competition and after a rollback, in one platform."""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from millstream import Client
from millstream.errors import FailedPrecondition, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry
from tests.e2e import scenario
from tests.e2e.scenario import MODEL
from tests.worlds.platform import World, wait_until, world
from tests.worlds.waiting import FLOW

RESYNC_SECONDS = 1.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("promotion")
    with world(folder / "state", resync_seconds=RESYNC_SECONDS, settings={"slots": "2"}) as platform:
        scenario.run(platform, scenario.a_file(folder))
        yield platform


def champion(client: Client) -> int:
    return int(client.alias(MODEL).version)


def reports(client: Client, version: int) -> dict[int, EvaluationReport]:
    """A version's reports by the champion version that it was compared with."""
    return {report.champion_version: report for report in client.reports(MODEL, version)}


def test_of_two_versions_at_once_the_later_is_champion_and_each_step_rests_on_a_report_about_the_one_before(
    platform: World,
) -> None:
    with platform.client() as client:
        runs = [client.train(MODEL, config={"seed": seed}) for seed in (11, 12)]
        for run in runs:
            list(client.watch_run(run.run_id, timeout=FLOW))
        wait_until(lambda: champion(client) == 3, "version 3 is champion")
        history = list(client.alias_history(MODEL))[::-1]
        assert [entry.version for entry in history] in ([1, 2, 3], [1, 3])
        for before, entry in pairwise(history):
            report = reports(client, entry.version)[before.version]
            assert (entry.report_id, report.status) == (report.report_id, EvaluationReport.STATUS_PASSED)
        if len(history) == 3:
            assert set(reports(client, 3)) >= {2}, "version 3 was evaluated again beside the champion that came between"


def test_a_rollback_stays_rolled_back_until_it_is_released(platform: World, tmp_path: Path) -> None:
    with platform.client() as client:
        before = champion(client)
        entry = client.rollback(MODEL, reason="angry users")
        assert (entry.action, entry.hold) == (AliasEntry.ACTION_ROLLED_BACK, True)
        assert entry.version < before
        back = entry.version
        client.wait_served(MODEL, back, timeout=FLOW)
        client.import_dataset(scenario.a_file(tmp_path, skip=10), scenario.DATASET, mode="replace")
        wait_until(lambda: back in reports(client, 4), "a report on version 4")
        assert reports(client, 4)[back].status == EvaluationReport.STATUS_PASSED
        # Meanwhile every service does three resyncs.
        time.sleep(3 * RESYNC_SECONDS)
        assert client.alias(MODEL).number == entry.number, "a passing report must not move an alias that is on hold"
        client.release(MODEL, reason="mended")
        wait_until(lambda: champion(client) == 4, "version 4 is champion")
        versions = [entry.version for entry in client.alias_history(MODEL)][::-1]
        assert versions[-3:] == [back, back, 4], "released, then directly to 4, never to the one rolled back"
        client.wait_served(MODEL, 4, timeout=FLOW)


def test_a_version_that_failed_its_gate_is_promoted_only_with_a_reason(platform: World, tmp_path: Path) -> None:
    strict = {**scenario.SPEC, "gate": [{"metric": "accuracy", "over_champion": 1.0}]}
    with platform.client() as client:
        present = champion(client)
        client.apply_model(strict)
        run = client.train(MODEL, config={"seed": 13})
        list(client.watch_run(run.run_id, timeout=FLOW))
        wait_until(lambda: present in reports(client, 5), "a report on version 5")
        report = reports(client, 5)[present]
        assert report.status == EvaluationReport.STATUS_FAILED
        assert any(not result.passed and "champion" in result.text for result in report.gate)
        with pytest.raises(FailedPrecondition, match="override"):
            client.promote(MODEL, 5)
        entry = client.promote(MODEL, 5, override="the champion's data were wrong")
        assert (entry.override, entry.hold) == ("the champion's data were wrong", True)
        assert client.wait_served(MODEL, 5, timeout=FLOW).served.version == 5
        with pytest.raises(NotFound, match="newest is 5"):
            client.promote(MODEL, 6)


def test_labels_that_changed_their_spelling_wait_for_a_person(platform: World, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.jsonl"
    labels = {"good": "1.0", "bad": "0.0"}
    rows = [json.loads(line) for line in scenario.a_file(tmp_path).read_text().splitlines()[:-2]]
    renamed.write_text("".join(json.dumps({**row, "label": labels[row["label"]]}) + "\n" for row in rows))
    with platform.client() as client:
        present = champion(client)
        client.apply_model({**scenario.SPEC, "gate": [{"metric": "accuracy", "at_least": 0.1}]})
        client.release(MODEL)
        client.import_dataset(renamed, scenario.DATASET, mode="replace")
        wait_until(lambda: present in reports(client, 6), "a report on version 6")
        report = reports(client, 6)[present]
        assert report.status == EvaluationReport.STATUS_FAILED
        assert (report.label_change.kept, report.label_change.new, report.label_change.lost) == (0, 2, 2)
        with pytest.raises(FailedPrecondition, match="not comparable, no label in common"):
            client.promote(MODEL, 6)
        assert champion(client) == present
        assert client.promote(MODEL, 6, override="the labels are numbers from now on").version == 6
