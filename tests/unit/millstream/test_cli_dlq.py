"""`millstream dlq` on fake services: the calls, the tables and the JSON."""

import json

from millstream.operations.v1 import operations_service_pb2 as operations
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import LETTER, RESOLUTION, Fakes

ROW = "letter-1\t2026-09-21 14:13:20\tmillstream.dataset.v1/2@17\twords\t9\tno event"


def test_letters_are_listed_and_with_all_their_resolutions(cli: Command, fakes: Fakes) -> None:
    assert cli("dlq", "list", "trainer").stdout.splitlines() == ["id\ttime\torigin\tkey\tbytes\treason", ROW]
    assert not fakes.last(operations.ListDeadLettersRequest).show_resolved
    resolved = operations.DeadLetter()
    resolved.CopyFrom(LETTER)
    resolved.resolution.CopyFrom(RESOLUTION)
    fakes.letters = [LETTER, resolved]
    assert cli("dlq", "list", "trainer", "--all").stdout.splitlines() == [
        "id\ttime\torigin\tkey\tbytes\treason\tresolution",
        f"{ROW}\t-",
        f"{ROW}\treplayed by ada, 2026-09-21 14:13:20: mended",
    ]
    assert fakes.last(operations.ListDeadLettersRequest).show_resolved
    found = json.loads(cli("dlq", "list", "trainer", "--all", "-o", "json").stdout)
    assert [letter["id"] for letter in found] == ["letter-1", "letter-1"]
    assert found[1]["resolution"]["actor"] == "ada"


def test_a_letter_shows_the_event_that_it_holds(cli: Command) -> None:
    assert cli("dlq", "show", "trainer", "letter-1").stdout.splitlines() == [
        "letter letter-1 of trainer, 2026-09-21 14:13:20",
        "reason: no event",
        "from: millstream.dataset.v1/2@17, key 'words'",
        "header ce_id: e1",
        'value, 9 bytes, {"snapshot_created": {"dataset": "words", "number": "0", "snapshot_id": ""}}',
    ]
    found = json.loads(cli("dlq", "show", "trainer", "letter-1", "-o", "json").stdout)
    assert found["event"]["snapshot_created"]["dataset"] == "words"


def test_a_letter_without_an_event_shows_its_bytes(cli: Command, fakes: Fakes) -> None:
    for topic, value in (("millstream.dataset.v1", b"\xff\xff"), ("", b"\x01\x02"), ("millstream.dataset.v1", b"")):
        fakes.letters = [operations.DeadLetter(id="odd", value=value, original_topic=topic)]
        shown = cli("dlq", "show", "trainer", "odd").stdout
        assert f"no event: {value.hex()}" in shown
        assert ("from: unknown" in shown) == (topic == "")
        assert json.loads(cli("dlq", "show", "trainer", "odd", "-o", "json").stdout)["value_hex"] == value.hex()


def test_letters_are_replayed_by_id_or_all(cli: Command, fakes: Fakes) -> None:
    line = "letter-1 replayed by ada, 2026-09-21 14:13:20: mended\n"
    assert cli("dlq", "replay", "trainer", "letter-1", "--note", "x").stdout == line
    asked = fakes.last(operations.ReplayDeadLetterRequest)
    assert (asked.id, asked.note) == ("letter-1", "x")
    assert cli("dlq", "replay", "trainer", "--all").stdout == line
    (found,) = map(json.loads, cli("dlq", "replay", "trainer", "--all", "-o", "json").stdout.splitlines())
    assert (found["id"], found["action"]) == ("letter-1", "ACTION_REPLAYED")
    fakes.letters = []
    assert cli("dlq", "replay", "trainer", "--all").stdout == "trainer has no dead letters\n"


def test_a_letter_is_dropped_with_a_reason(cli: Command, fakes: Fakes) -> None:
    assert cli("dlq", "drop", "trainer", "letter-1", "--reason", "dull").stdout == "letter-1 dropped by ada, -: dull\n"
    assert fakes.last(operations.DropDeadLetterRequest).reason == "dull"
    cli("dlq", "drop", "trainer", "letter-1", code=2)


def test_either_ids_or_all_must_be_given(cli: Command) -> None:
    cli("dlq", "replay", "trainer", code=2)
    cli("dlq", "replay", "trainer", "letter-1", "--all", code=2)
