"""A broker that denies a user something: each error names the right that is missing."""

import asyncio
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from deploy.servers.certificates import can_make_certificates
from deploy.servers.kafka import Kafka
from millstream.errors import Unavailable
from servicekit.bus.port import Message
from servicekit.runtime.backends import open_bus
from tests.worlds.servers import running, settings_of
from tests.worlds.waiting import HANG

READER, TOPIC, MISSING, GROUP = "reader", "millstream.registry.v1", "missing", "trainer"
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
"""A client without login, on the plain listener, may do everything."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Its user may read one topic, and ask for another that is not there."""
    if not can_make_certificates():
        pytest.skip("certificates are made with the openssl command, which is not installed")
    folder = tmp_path_factory.mktemp("guarded")
    with running(Kafka(folder, users={READER: "right"}, settings=AUTHORIZER)) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        admin.create_topics({TOPIC: {"num_partitions": 2, "replication_factor": 1}})
        rights = ((TOPIC, ACLOperation.READ), (MISSING, ACLOperation.DESCRIBE))
        admin.create_acls([allowed(topic, operation) for topic, operation in rights])
        admin.close()
        yield broker


def allowed(topic: str, operation: ACLOperation) -> ACL:
    place = ResourcePattern(ResourceType.TOPIC, topic)
    return ACL(f"User:{READER}", "*", operation, ACLPermissionType.ALLOW, place)


async def test_read_only_credentials_read_and_every_denial_names_the_missing_right(guarded: Kafka) -> None:
    bus = open_bus(settings_of(guarded.settings(READER)))
    tail = bus.tail([TOPIC], from_start=True)
    await asyncio.wait_for(tail.start(), HANG)
    member = bus.subscribe(GROUP, [TOPIC])
    for attempt, words in (
        (bus.publish(Message(TOPIC, "key", b"")), f"user '{READER}' may write no topic: grant it WRITE"),
        (bus.publish(Message("other", "key", b"")), f"user '{READER}' may not use topic other: grant it"),
        (
            bus.publish(Message(MISSING, "key", b"")),
            f"topic {MISSING} is missing and user '{READER}' may not create it: grant",
        ),
        (member.start(), f"user '{READER}' may not use group {GROUP}: grant it READ"),
    ):
        with pytest.raises(Unavailable, match=words):
            await asyncio.wait_for(attempt, HANG)
    await bus.close()
