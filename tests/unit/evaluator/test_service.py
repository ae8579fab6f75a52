"""The evaluator as its users see it: events in, facts out, questions answered, pages that cannot be abused."""

import asyncio
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import (
    GetEvaluationReportPageRequest,
    GetEvaluationReportRequest,
    ListEvaluationReportsRequest,
)
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from servicekit.facts.events import from_message, to_message
from servicekit.ids import new_id
from services.evaluator.handlers import HANDLERS
from services.evaluator.metrics import PRIMARY, REPORTS
from services.evaluator.reconcile import ChallengersKey, EvaluationKey
from services.evaluator.report.page import figure, render
from services.evaluator.settings import Settings
from services.evaluator.store import folder_of
from tests.worlds.evaluator import MODEL, TRAIN, VALIDATION, Replica, World, trained
from tests.worlds.waiting import HANG, until

PASSED = EvaluationReport.STATUS_PASSED


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def count(replica: Replica, wanted: int, model: str = MODEL) -> None:
    async def stands() -> bool:
        return len(await replica.store.reports(model)) == wanted

    await until(stands)


def test_what_events_mean() -> None:
    registered = ModelVersionRegistered(model="toy", version=3)
    assert list(HANDLERS[ModelVersionRegistered](registered)) == [EvaluationKey("toy", 3)]
    assert list(HANDLERS[AliasMoved](AliasMoved(model="toy", alias="champion"))) == [ChallengersKey("toy")]
    assert list(HANDLERS[AliasMoved](AliasMoved(model="toy", alias="staging"))) == []


async def test_events_bring_reports_and_reports_are_published(world: World) -> None:
    """A version is registered; it is promoted; the champion's challenger gets another report."""
    tail = world.bus.tail(["millstream.evaluation.v1"])
    await tail.start()
    replica = world.replica()
    async with replica.running():
        await replica.work.resync()
        for number in (1, 2):
            await world.version()
            event = ModelVersionRegistered(model=MODEL, version=number)
            await world.bus.publish(to_message(event, MODEL, new_id(), "registry"))
            await count(replica, number)
        entry = world.champion(1)
        moved = AliasMoved(model=MODEL, alias="champion", number=entry.number, version=1)
        await world.bus.publish(to_message(moved, MODEL, new_id(), "registry"))
        await count(replica, 3)
    newest = (await replica.store.reports(MODEL))[0]
    assert (newest.version, newest.champion_version, newest.status) == (2, 1, PASSED)
    published: list[Any] = []
    while len(published) < 3:
        published += [from_message(message).fact for message in await asyncio.wait_for(tail.batch(), HANG)]
    assert {fact.report_id for fact in published} == {report.report_id for report in await replica.store.reports(MODEL)}
    assert all(fact.status == PASSED and fact.model == MODEL for fact in published)
    assert PRIMARY.labels(MODEL)._value.get() == newest.metrics[0].candidate


async def test_the_resync_alone_finds_every_pending_report(world: World) -> None:
    for model in ("a", "b", "c"):
        world.declare(model)
        for _ in range(3):
            await world.version(model=model)
    world.champion(1, model="b")
    replica = world.replica()
    before = REPORTS.labels("passed")._value.get()
    async with replica.running():
        for model in ("a", "b", "c"):
            await count(replica, 3, model)
    assert REPORTS.labels("passed")._value.get() == before + 9
    assert [name async for name in replica.evaluate.pending()] == []
    assert {report.champion_version for report in await replica.store.reports("b")} == {1}


async def test_reports_are_listed_newest_first_in_pages(world: World) -> None:
    for _ in range(3):
        await world.version()
    service = world.replica().service
    replica = world.replica()
    made = [await replica.report(version) for version in (1, 2, 3)]
    listed: list[EvaluationReport] = []
    token = ""
    while True:
        request = ListEvaluationReportsRequest(model=MODEL, page_size=2, page_token=token)
        response = await service.ListEvaluationReports(request)
        listed += response.reports
        if not (token := response.next_page_token):
            break
    assert listed == made[::-1]
    request = ListEvaluationReportsRequest(model=MODEL, version=2)
    assert list((await service.ListEvaluationReports(request)).reports) == [made[1]]
    assert not (await service.ListEvaluationReports(ListEvaluationReportsRequest(model="other"))).reports


async def test_a_report_is_got_by_its_id(world: World) -> None:
    await world.version()
    report = await world.replica().report()
    service = world.replica().service
    got = await service.GetEvaluationReport(GetEvaluationReportRequest(report_id=report.report_id))
    assert got.report == report


async def test_refusals_name_the_field_and_say_what_to_do(world: World) -> None:
    service = world.replica().service
    with pytest.raises(InvalidArgument) as refused:
        await service.ListEvaluationReports(ListEvaluationReportsRequest())
    assert refused.value.field == "model"
    name = "0123456789abcdef"
    malformed = ["", "toy", f"toy.1.{name}0", f"toy.0.{name}", f"toy.1.{name[:-1]}", f"toy.01.{name}", f"TOY.1.{name}"]
    for report_id in (*malformed, f"../runs.1.{name}", f"a/b.1.{name}", f"toy.{'9' * 11}.{name}", f"toy.1.{name}\n"):
        with pytest.raises(InvalidArgument) as refused:
            await service.GetEvaluationReport(GetEvaluationReportRequest(report_id=report_id))
        assert refused.value.field == "report_id", report_id
    with pytest.raises(NotFound, match="ListEvaluationReports"):
        await service.GetEvaluationReportPage(GetEvaluationReportPageRequest(report_id=f"toy.1.{name}"))


async def test_the_page_shows_everything_and_escapes_what_rows_say(world: World) -> None:
    attack = {"text": "the <script>alert('x')</script> was rude", "label": "good"}
    snapshot = await world.snapshot(test=[*VALIDATION, attack])
    await world.version(snapshot=snapshot)
    await world.version(trained(steps=2), await world.snapshot(train=TRAIN[:100], test=[*VALIDATION, attack]))
    world.champion(1)
    replica = world.replica()
    report = await replica.report(2)
    request = GetEvaluationReportPageRequest(report_id=report.report_id)
    html = (await replica.service.GetEvaluationReportPage(request)).html
    assert html == (await world.blobs.get(f"{folder_of(report.report_id)}/report.html")).decode()
    assert "<script" not in html
    assert "&lt;script&gt;alert(" in html
    for text in ("toy, version 2", "majority class", "Confusion matrix", "rgba(36, 103, 201", "run-2", "c0ffee"):
        assert text in html
    assert report.gate[0].text.replace("'", "&#39;") in html
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.91234, "0.9123"), (1.0, "1.0000"), (1234.0, "1,234"), (3e-5, "3.00e-05"), (0.0, "0.0000"),
     (math.nan, "not a number"), (math.inf, "inf"), ("text", "text"), (True, "True")],
)  # fmt: skip
def test_figures_are_readable(value: Any, text: str) -> None:
    assert figure(value) == text


def test_a_page_holds_a_config_as_it_was_and_figures_that_are_no_share() -> None:
    report = EvaluationReport(model="m", version=2, champion_version=2, status=EvaluationReport.STATUS_FAILED)
    report.lineage.config.update(
        {"rate": 1e-05, "buckets": 131072, "sizes": [256, 32], "words": "ngrams", "none": None}
    )
    report.lineage.inexact_from_step = 40
    report.lineage.departures.append("from step 40 on: torch 2.9.0, not 2.8.0")
    report.metrics.add(metric="loss", meaning="nats", candidate=4.0, baseline=8.0)
    report.metrics.add(metric="broken", candidate=math.nan, champion=0.5)
    html = render(report)
    for text in ("1e-05", "131072", "[256, 32]", "ngrams", "null", "width: 50.0%", "4.0000 better", "not comparable"):
        assert text in html
    assert "It is the champion itself" in html
    assert "no longer bit-exact from step" in html and "torch 2.9.0, not 2.8.0" in html


async def test_an_errors_page_shows_the_reason(world: World) -> None:
    await world.version()
    replica = world.replica()
    await replica.evaluate.end(EvaluationKey(MODEL, 1), NotFound("nothing <b>there</b>"))
    (report,) = await replica.store.reports(MODEL)
    request = GetEvaluationReportPageRequest(report_id=report.report_id)
    html = (await replica.service.GetEvaluationReportPage(request)).html
    assert "nothing &lt;b&gt;there&lt;/b&gt;" in html
    assert "could not be evaluated" in html


def test_nothing_heavy_is_imported_at_the_start() -> None:
    heavy = ("torch", "numpy", "sklearn", "jinja2", "matplotlib")
    code = f"import sys, services.evaluator.__main__; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_setting_says_what_it_is() -> None:
    assert all(variable.field.description for variable in Settings.variables())
    assert (Settings().listen, Settings().metrics_listen) == ("127.0.0.1:50053", "127.0.0.1:9103")
