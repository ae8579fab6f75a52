"""Creates missing topics when they are first used, with the partitions, replicas and retention of the options."""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from servicekit.bus.kafka.connection import Client, Link, user_label

READY_SECONDS = 3.0


def ensure(link: Link, topics: Sequence[str]) -> None:
    """Create the missing topics and return once all can be used. Blocks. Raises Unavailable, with what to do.

    Idempotent: any number of processes may do this at once.
    """
    try:
        admin = KafkaAdminClient(**link.configuration(), kafka_client=Client)
        try:
            if missing := _missing(link, admin, topics):
                _create(link, admin, missing)
                admin.wait_for_topics(list(missing), timeout_ms=READY_SECONDS * 1000)
        finally:
            admin.close()
    except KafkaError as error:
        raise link.explain(error) from error


def _missing(link: Link, admin: KafkaAdminClient, topics: Sequence[str]) -> Sequence[str]:
    missing = []
    for topic in admin.describe_topics(list(topics)):
        kind = for_code(topic["error_code"])
        if kind is UnknownTopicOrPartitionError:
            missing.append(topic["name"])
        elif issubclass(kind, AuthorizationError):
            raise kind({topic["name"]})
    return missing


def _create(link: Link, admin: KafkaAdminClient, topics: Sequence[str]) -> None:
    options = link.options
    names = ", ".join(topics)
    if not options.create_topics:
        raise link.unavailable(
            f"topic {names} is missing and MILLSTREAM_KAFKA_CREATE_TOPICS=false: create it with "
            f"{options.partitions} partitions, or allow its creation"
        )
    created = admin.create_topics({topic: _settings(link) for topic in topics}, raise_errors=False)
    for topic in created["topics"]:
        kind = for_code(topic["error_code"])
        if kind in (NoError, TopicAlreadyExistsError):
            continue
        reason = topic.get("error_message") or kind.__name__
        if issubclass(kind, AuthorizationError):
            raise link.unavailable(
                f"topic {topic['name']} is missing and {user_label(options.user)} may not create it: "
                f"grant CREATE (kafka-acls.sh), or create it with {options.partitions} partitions"
            )
        hint = " Set MILLSTREAM_KAFKA_REPLICAS." if kind is InvalidReplicationFactorError else ""
        raise link.unavailable(f"topic {topic['name']} cannot be created: {reason}.{hint}")


def _settings(link: Link) -> Mapping[str, Any]:
    return {
        "num_partitions": link.options.partitions,
        "replication_factor": link.options.replicas,
        "configs": {"retention.ms": str(int(link.options.retention_hours * 3_600_000))},
    }
