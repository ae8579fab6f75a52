"""Today's code reads what every kept version wrote; this version's corpus has a sample of each kind that it writes."""

import re
from collections.abc import Callable

import pytest

from millstream.defaults import BY_NAME
from millstream.inference.v1.events_pb2 import VersionServed
from servicekit.facts.events import from_message
from servicekit.facts.outbox import Fact
from servicekit.ids import hash_of
from tests.contract.old_messages import answers, kinds
from tests.contract.old_messages.kept import Corpus, corpora, place, this_version
from tests.contract.old_messages.kinds import Kind

COLLECT = "run `python -m tests.contract.old_messages.collect` and commit what it writes"
MACHINES = re.compile(rb"/(?:home|root|tmp|Users|var)/[^ \"']*")
Build = Callable[[str, bytes], Fact]


@pytest.fixture(params=corpora(), ids=lambda corpus: corpus.version)
def corpus(request: pytest.FixtureRequest) -> Corpus:
    found: Corpus = request.param
    return found


@pytest.fixture
def newest() -> Corpus:
    """The corpus of this version."""
    found = {corpus.version: corpus for corpus in corpora()}
    if this_version() not in found:
        pytest.fail(f"version {this_version()} has no corpus yet: {COLLECT}")
    return found[this_version()]


def test_every_sample_reads_as_when_it_was_written(corpus: Corpus) -> None:
    wrong = answers.wrong_in(corpus)
    assert wrong == [], (
        f"what version {corpus.version} wrote is read otherwise now. Fields and values may be added; none may be renamed, "
        "renumbered, retyped or taken away (docs/adr/0014)"
    )


def test_an_old_fact_is_published_as_the_same_event(corpus: Corpus) -> None:
    """Its marker may still be in the outbox; consumers deduplicate by the event's id."""
    facts = {hash_of(key): build(key, data) for key, data in corpus.objects.items() for build in builders(key)}
    published = [from_message(message) for message in corpus.messages if message.topic in BY_NAME]
    for event in published:
        if fact := facts.get(event.event_id):
            assert (fact.event, fact.key) == (event.fact, event.key)
    unfounded = {event.event_type for event in published if event.event_id not in facts}
    assert unfounded == {VersionServed.DESCRIPTOR.full_name}, "all other events state an object, whose key gives the id"


def test_an_old_letter_keeps_its_id(corpus: Corpus) -> None:
    """Else resolved letters would be open again."""
    letters = [message for message in corpus.messages if message.topic not in BY_NAME]
    named = {answers.of_message(message)["id"] for message in letters}
    dealt_with = {key.rpartition("/")[2] for key in corpus.objects if key.startswith("dead-letters/")}
    assert dealt_with and dealt_with < named


def test_no_sample_identifies_the_machine_that_wrote_it(corpus: Corpus) -> None:
    texts = {**corpus.objects, **{place(message): message.value for message in corpus.messages}}
    found = {name: MACHINES.findall(text) for name, text in texts.items()}
    assert {name: places for name, places in found.items() if places} == {}


# --- what this version writes


def test_every_event_has_a_sample(newest: Corpus) -> None:
    published = {message.headers.get("ce_type", b"").decode() for message in newest.messages}
    missing = sorted(set(kinds.events()) - published)
    assert missing == [], f"no sample of these events: let history.py make them happen, then {COLLECT}"


def test_every_kind_of_object_is_described() -> None:
    missing = sorted(kinds.facts().keys() - {kind.pattern for kind in kinds.OBJECTS})
    assert missing == [], f"services publish these objects: add them to kinds.py, then {COLLECT}"


def test_every_kind_of_object_has_a_sample(newest: Corpus) -> None:
    found = {kinds.kind_of(key) for key in newest.objects}
    missing = [kind.pattern for kind in kinds.OBJECTS if kind not in found]
    assert missing == [], f"no sample of these objects: let history.py make them happen, then {COLLECT}"
    assert kinds.strangers(newest.objects) == []


def test_every_message_that_no_call_uses_is_stored_or_published() -> None:
    """Else it may be stored in an object that kinds.py does not describe."""
    missing = sorted(kinds.beside_calls() - kinds.stored_or_published())
    assert missing == [], f"name in kinds.py the objects that hold these messages, then {COLLECT}"


def builders(key: str) -> list[Build]:
    """The functions that build the event of the object with this key; none if it is not published."""
    return [build for pattern, build in kinds.facts().items() if Kind(pattern).matches(key)]
