"""Every method of both clients against fake services: the request that it sends, and the message that it returns."""

import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from millstream import AsyncClient, Client
from millstream.defaults import SERVICES
from millstream.errors import InvalidArgument
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.worlds import fake_services as fake
from tests.worlds.fake_services import Fakes

Call = Callable[[Any], Any]
CALLS: dict[str, tuple[Call, object, dict[str, Any]]] = {
    # method: (call, what it returns or yields, fields of the request that it sends last)
    "watch_import": (lambda c: c.watch_import("words", "one"), 2, {"dataset": "words", "request_id": "one"}),
    "wait_import": (lambda c: c.wait_import("words", "one"), fake.IMPORT, {"request_id": "one"}),
    "dataset": (lambda c: c.dataset("words"), fake.DATASET, {"dataset": "words"}),
    "datasets": (lambda c: c.datasets(), [fake.DATASET], {"page_size": 200}),
    "snapshot": (lambda c: c.snapshot("words", 4), fake.SNAPSHOT, {"dataset": "words", "number": 4}),
    "snapshots": (lambda c: c.snapshots("words"), [fake.SNAPSHOT], {"dataset": "words"}),
    "rows": (lambda c: c.rows("words", 4, "test"), 2, {"dataset": "words", "number": 4, "split": "test"}),
    "train": (
        lambda c: c.train("toy", dataset_number=4, preset="p", config={"steps": 10}, request_id="one"),
        fake.RUN,
        {
            "request_id": "one",
            "spec": {"model": "toy", "dataset_number": "4", "preset": "p", "config": {"steps": 10}},
        },
    ),
    "run": (lambda c: c.run("run-1"), fake.RUN, {"run_id": "run-1"}),
    "runs": (lambda c: c.runs("toy", [TrainingRun.STATE_RUNNING]), [fake.RUN] * 2, {"model": "toy", "states": [2]}),
    "watch_run": (lambda c: c.watch_run("run-1"), 2, {"run_id": "run-1"}),
    "wait_run": (lambda c: c.wait_run("run-1"), fake.RUN, {"run_id": "run-1"}),
    "cancel_run": (lambda c: c.cancel_run("run-1", "enough"), None, {"run_id": "run-1", "reason": "enough"}),
    "run_log": (lambda c: c.run_log("run-1", follow=True), 2, {"run_id": "run-1", "follow": True}),
    "apply_model": (
        lambda c: c.apply_model({"model": "toy"}, etag="6", request_id="one"),
        fake.MODEL,
        {"spec": {"model": "toy"}, "etag": "6", "request_id": "one"},
    ),
    "model": (lambda c: c.model("toy"), fake.MODEL, {"model": "toy"}),
    "models": (lambda c: c.models(), [fake.MODEL], {"page_size": 200}),
    "version": (lambda c: c.version("toy"), fake.VERSION, {"model": "toy", "version": 0, "alias": "champion"}),
    "versions": (lambda c: c.versions("toy"), [fake.VERSION], {"model": "toy"}),
    "alias": (lambda c: c.alias("toy", "shadow"), fake.ENTRY, {"model": "toy", "alias": "shadow"}),
    "aliases": (lambda c: c.aliases("toy"), [fake.ENTRY], {"model": "toy"}),
    "alias_history": (lambda c: c.alias_history("toy"), [fake.ENTRY], {"model": "toy", "alias": "champion"}),
    "alias_at": (
        lambda c: c.alias_at("toy", datetime(2026, 9, 21, tzinfo=UTC)),
        fake.ENTRY,
        {"model": "toy", "time": "2026-09-21T00:00:00Z"},
    ),
    "promote": (
        lambda c: c.promote("toy", 3, reason="r", override="o", alias="champion", etag="4", request_id="one"),
        fake.ENTRY,
        {"version": 3, "reason": "r", "override": "o", "alias": "champion", "etag": "4", "request_id": "one"},
    ),
    "rollback": (
        lambda c: c.rollback("toy", 2, reason="r", request_id="one"),
        fake.ENTRY,
        {"version": 2, "reason": "r", "alias": "champion", "request_id": "one"},
    ),
    "release": (lambda c: c.release("toy", reason="r"), None, {"model": "toy", "reason": "r"}),
    "report": (lambda c: c.report("report-1"), fake.REPORT, {"report_id": "report-1"}),
    "reports": (lambda c: c.reports("toy", 3), [fake.REPORT], {"model": "toy", "version": 3}),
    "report_page": (lambda c: c.report_page("report-1"), "<html>తె</html>", {"report_id": "report-1"}),
    "evaluate_again": (
        lambda c: c.evaluate_again("toy", 3, reason="r", request_id="one"),
        2,
        {"model": "toy", "version": 3, "reason": "r", "request_id": "one"},
    ),
    "classify": (lambda c: c.classify("toy", ["a"], "shadow"), None, {"texts": ["a"], "alias": "shadow"}),
    "embed": (lambda c: c.embed("toy", ["a"], "shadow"), None, {"texts": ["a"], "alias": "shadow"}),
    "similar": (
        lambda c: c.similar("toy", "a", limit=2, label="good", alias="shadow"),
        None,
        {"text": "a", "limit": 2, "label": "good", "alias": "shadow"},
    ),
    "rank": (
        lambda c: c.rank("toy", {"x": ["a", "b"]}, "good", "shadow"),
        None,
        {"candidates": [{"id": "x", "texts": ["a", "b"]}], "label": "good", "alias": "shadow"},
    ),
    "predict": (
        lambda c: c.predict("toy", [{"text": "a", "n": 1}], "shadow"),
        None,
        {"rows": [{"text": "a", "n": 1}], "alias": "shadow"},
    ),
    "served": (lambda c: c.served("toy"), 1, {"model": "toy"}),
    "wait_served": (lambda c: c.wait_served("toy", 2), None, {"model": "toy"}),
    "load_problems": (lambda c: c.load_problems("toy"), [fake.PROBLEM], {"model": "toy", "page_size": 200}),
    "retry_version": (
        lambda c: c.retry_version("toy", 3, "mended"),
        None,
        {"model": "toy", "version": "3", "note": "mended"},
    ),
    "status": (lambda c: c.status("trainer"), fake.HEALTHY, {}),
    "events": (lambda c: c.events(["millstream.dataset.v1"]), 5, {"topics": ["millstream.dataset.v1"]}),
    "dead_letters": (lambda c: c.dead_letters("trainer", True), [fake.LETTER], {"show_resolved": True}),
    "dead_letter": (lambda c: c.dead_letter("trainer", "letter-1"), fake.LETTER, {"id": "letter-1"}),
    "replay_dead_letter": (
        lambda c: c.replay_dead_letter("trainer", "letter-1", "n"),
        fake.RESOLUTION,
        {"id": "letter-1", "note": "n"},
    ),
    "drop_dead_letter": (
        lambda c: c.drop_dead_letter("trainer", "letter-1", "r"),
        None,
        {"id": "letter-1", "reason": "r"},
    ),
}
OTHERWISE = {"import_dataset", "download_artifact", "close"}  # tested with files below and in test_client.py


def test_every_public_method_is_called_here() -> None:
    public = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert public == set(CALLS) | OTHERWISE
    assert public == {name for name, _ in inspect.getmembers(AsyncClient, inspect.isfunction) if name[0] != "_"}


@pytest.fixture
def client(platform: str) -> Iterator[Client]:
    addresses: dict[str, Any] = dict.fromkeys(SERVICES, platform)
    with Client(**addresses) as client:
        yield client


@pytest.fixture
async def async_client(platform: str) -> AsyncIterator[AsyncClient]:
    addresses: dict[str, Any] = dict.fromkeys(SERVICES, platform)
    async with AsyncClient(**addresses) as client:
        yield client


@pytest.mark.parametrize("name", CALLS)
def test_a_method_of_the_sync_client(name: str, client: Client, fakes: Fakes) -> None:
    call, expected, fields = CALLS[name]
    got = call(client)
    check(list(got) if isinstance(got, Iterator) else got, expected, fakes.requests[-1], fields)


@pytest.mark.parametrize("name", CALLS)
async def test_a_method_of_the_async_client(name: str, async_client: AsyncClient, fakes: Fakes) -> None:
    call, expected, fields = CALLS[name]
    got = call(async_client)
    got = [each async for each in got] if isinstance(got, AsyncIterator) else await got
    check(got, expected, fakes.requests[-1], fields)


REFUSED: dict[str, tuple[Call, str, str | None]] = {
    # what is wrong: (call, the refusal's text, its field)
    "classify a str": (lambda c: c.classify("toy", "hello"), "texts is one str: pass a list, [text]", "texts"),
    "classify bytes": (lambda c: c.classify("toy", b"hello"), "texts is one bytes: pass a list", "texts"),
    "classify no text": (
        lambda c: c.classify("toy", ["a", None]),
        "texts[1] is None (NoneType): a text is",
        "texts[1]",
    ),
    "classify None": (lambda c: c.classify("toy", None), "texts is None (NoneType): pass a list", "texts"),
    "half a pair": (lambda c: c.classify("toy", ["a\ud83d"]), "half of a surrogate pair at character 1", "texts[0]"),
    "embed a str": (lambda c: c.embed("toy", "hello"), "texts is one str: pass a list, [text]", "texts"),
    "similar to a list": (lambda c: c.similar("toy", ["a"]), "text is ['a'] (list): a text is a str", "text"),
    "rank a str": (
        lambda c: c.rank("toy", {"x": "hello"}, "good"),
        "candidates['x'] is one str: pass a list, [text]",
        "candidates['x']",
    ),
    "rank a list": (lambda c: c.rank("toy", ["a"], "good"), "pass a mapping, {id: [text]}", "candidates"),
    "predict a str": (lambda c: c.predict("toy", "hello"), "rows is one str: pass a list of rows", "rows"),
    "predict a row": (lambda c: c.predict("toy", {"text": "a"}), "rows is one dict: pass a list of rows", "rows"),
    "predict texts": (lambda c: c.predict("toy", ["a"]), "rows[0] is 'a' (str): a row is a mapping", "rows[0]"),
    "not a number": (lambda c: c.predict("toy", [{"a": math.nan}]), "rows[0].a: nan (float) is no number", "rows[0].a"),
    "infinity": (lambda c: c.predict("toy", [{}, {"a": [-math.inf]}]), "-inf (float) is no number", "rows[1].a[0]"),
    "no double": (lambda c: c.predict("toy", [{"a": 10**400}]), "a number of 1,329 bits is no number", "rows[0].a"),
    "long number": (lambda c: c.predict("toy", [{"a": 10**9999}]), "33,216 bits is no number", "rows[0].a"),
    "bytes in a row": (lambda c: c.predict("toy", [{"a": b"x"}]), "b'x' (bytes) is no text, number", "rows[0].a"),
    "half a pair in a row": (lambda c: c.predict("toy", [{"a": "\ud83d"}]), "half of a surrogate pair", "rows[0].a"),
    "half a pair as a name": (
        lambda c: c.predict("toy", [{"\ud83d": 1}]),
        "half of a surrogate pair at character 0",
        "rows[0].'\\ud83d'",
    ),
    "a number as a name": (lambda c: c.predict("toy", [{1: 2}]), "the name 1 (int) is no str", "rows[0]"),
    "nested": (lambda c: c.predict("toy", [{"a": nested(40)}]), "nested more than 30 levels deep", None),
    "train by infinity": (lambda c: c.train("toy", config={"lr": math.inf}), "inf (float) is no number", "config.lr"),
    "apply no double": (
        lambda c: c.apply_model({"model": "m", "config": {"epochs": 10**400}}),
        "a number of 1,329 bits is no number",
        "spec.config.epochs",
    ),
}


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else "deep"


@pytest.mark.parametrize("name", REFUSED)
async def test_what_no_message_can_hold_is_refused_by_its_place_and_not_sent(
    name: str, client: Client, async_client: AsyncClient, fakes: Fakes
) -> None:
    call, text, field = REFUSED[name]
    with pytest.raises(InvalidArgument) as refused:
        call(client)
    with pytest.raises(InvalidArgument) as refused_async:
        await call(async_client)
    assert text in refused.value.text and refused_async.value.text == refused.value.text
    assert (field is None or refused.value.field == field) and fakes.requests == []


def check(got: Any, expected: object, request: Message, fields: dict[str, Any]) -> None:
    """`expected` is the answer, the number of answers of a stream, or None: a message of any content."""
    if isinstance(expected, int) and not isinstance(got, int):
        assert len(got) == expected
    elif expected is None:
        assert isinstance(got, Message) and got.ByteSize()
    else:
        assert got == expected
    sent = MessageToDict(
        request,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        use_integers_for_enums=True,
    )
    for name, value in fields.items():
        found = sent[name]
        if isinstance(value, dict):
            found = {key: found[key] for key in value}
        assert found == (str(value) if isinstance(found, str) else value), name


async def test_an_artifact_is_downloaded_by_the_async_client(async_client: AsyncClient, tmp_path: Path) -> None:
    assert await async_client.download_artifact("toy", tmp_path, version=3) == fake.VERSION
    assert (tmp_path / "deep/weights").read_bytes() == fake.WEIGHTS


def test_an_unknown_service_is_named_with_those_that_exist(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="'trayner' is no service; there are: dataprep, trainer"):
        client.status("trayner")


def test_a_client_that_was_closed_closes_again(platform: str) -> None:
    client = Client(registry=platform)
    client.models()
    client.close()
    client.close()
