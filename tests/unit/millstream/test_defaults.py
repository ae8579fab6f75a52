"""Ports, topics and states that every part shares."""

import pytest

from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import BY_NAME, SERVICES, TOPICS, address, dead_letters_of, metrics_address, topic_of
from millstream.registry.v1.model_pb2 import AliasEntry
from millstream.states import IMPORT_ENDED, RUN_ENDED, word_of
from millstream.training.v1.training_run_pb2 import TrainingRun


def test_each_service_has_its_ports() -> None:
    assert [address(service) for service in SERVICES] == [f"127.0.0.1:{50051 + i}" for i in range(5)]
    assert [metrics_address(service) for service in SERVICES] == [f"127.0.0.1:{9101 + i}" for i in range(5)]
    assert address("registry", 100, "mill") == "mill:104"


def test_each_event_has_the_topic_of_its_package() -> None:
    for topic in TOPICS:
        assert topic.message.DESCRIPTOR.file.package == topic.name
        for field in topic.message.DESCRIPTOR.oneofs_by_name["event"].fields:
            assert field.message_type and topic_of(field.message_type.full_name) is topic
    assert len(BY_NAME) == len(SERVICES)
    with pytest.raises(KeyError):
        topic_of("other.v1.Event")


def test_dead_letters_have_a_topic_of_their_group() -> None:
    assert dead_letters_of("trainer") == "trainer.dlq"


def test_a_state_is_a_word_without_its_prefix() -> None:
    assert word_of(TrainingRun.State, TrainingRun.STATE_RUNNING) == "running"
    assert word_of(AliasEntry.Action, AliasEntry.ACTION_PROMOTED_AUTOMATICALLY) == "promoted_automatically"
    with pytest.raises(ValueError):
        word_of(TrainingRun.State, 99)


def test_every_state_is_open_or_final() -> None:
    assert {word_of(TrainingRun.State, state) for state in set(TrainingRun.State.values()) - set(RUN_ENDED)} == {
        "unspecified",
        "pending",
        "running",
    }
    assert {word_of(Import.State, state) for state in set(Import.State.values()) - set(IMPORT_ENDED)} == {
        "unspecified",
        "pending",
        "running",
    }
