"""With Kafka down every call of every service works and nothing is lost; and what is wrong with it is one clear error."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.kafka import Kafka
from millstream.cli.status import Replica
from millstream.defaults import SERVICES
from millstream.errors import Unavailable
from tests.e2e import scenario
from tests.e2e.scenario import MODEL
from tests.integration.outages import (
    OUR_FAULT,
    bring_to_serving,
    call_everything,
    calls,
    facts,
    methods,
    one_service,
    published,
)
from tests.worlds.platform import World, wait_until, world

ADA = "ada"


def test_without_kafka_every_call_works_and_every_fact_is_published_once_it_is_there(
    own_kafka: Callable[..., Kafka], tmp_path: Path
) -> None:
    kafka = own_kafka()
    kafka.kill()
    with world(tmp_path / "state", kind="local", settings=kafka.settings(), resync_seconds=1) as platform:
        file = scenario.a_file(tmp_path)
        assert bring_to_serving(platform, file).version == 1
        before = calls(platform)
        call_everything(platform, file, tmp_path / "artifact-1")
        check_answers(platform, before)
        wait_until(lambda: no_answer(platform, kafka), "every service reports that Kafka is down, and serves")
        without_letters(platform, kafka)
        assert "cannot use the bus, and serves without it" in (platform.state / "up.log").read_text()
        kafka.start()
        wait_until(lambda: facts(platform) <= published(platform), "every fact is published")

        kafka.kill()
        assert bring_to_serving(platform, scenario.a_file(tmp_path, skip=20)).version == 2
        kafka.start()
        wait_until(lambda: facts(platform) <= published(platform), "every fact is published")
        wait_until(lambda: not any(problems_with(platform, kafka.address)), "every service reports that all is well")
        with platform.client() as client:
            assert client.classify(MODEL, ["kind"]).served.version == 2


def check_answers(platform: World, before: Mapping[tuple[str, str, str], int]) -> None:
    """Since then each method has answered, and by none of the codes that speak of a fault of ours."""
    since = {key for key, count in calls(platform).items() if count > before[key]}
    assert methods() - {(service, method) for service, method, _ in since} == set(), "methods that no call tried"
    ours = {(service, method) for service, method in methods()}
    assert [key for key in since if key[:2] in ours and key[2] in OUR_FAULT] == []


def problems_with(platform: World, words: str) -> list[str]:
    """The problems with these words that the services report, one a service."""
    with platform.client() as client:
        found = []
        for service in SERVICES:
            status = client.status(service)
            assert status.ready, f"{service} is not ready: {status.not_ready_reason}"
            found += [problem for problem in Replica(service, "", status).problems() if words in problem][:1]
        return found


def no_answer(platform: World, kafka: Kafka) -> bool:
    """Whether every service reports that this broker must be started."""
    return len([problem for problem in problems_with(platform, kafka.address) if "start the broker" in problem]) == 5


def without_letters(platform: World, kafka: Kafka) -> None:
    """A call that needs the bus fails at once with the reason."""
    with platform.client() as client, pytest.raises(Unavailable, match=kafka.address):
        list(client.dead_letters("trainer"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that asks for a login, over TLS."""
    if not can_make_certificates():
        pytest.skip("certificates are made with the openssl command, which is not installed")
    from tests.worlds.servers import running

    with running(Kafka(tmp_path_factory.mktemp("secure"), users={ADA: "right"})) as broker:
        yield broker


def wrong_password(kafka: Kafka, folder: Path) -> dict[str, str]:
    (folder / "wrong").write_text("wrong")
    return {"kafka_password_file": str(folder / "wrong")}


def no_password(kafka: Kafka, folder: Path) -> dict[str, str]:
    return {"kafka_password_file": str(folder / "nothing")}


def wrong_authority(kafka: Kafka, folder: Path) -> dict[str, str]:
    return {"kafka_ca_file": str(Authority.make(folder / "other").ca_file)}


def no_topics(kafka: Kafka, folder: Path) -> dict[str, str]:
    return {"kafka_prefix": "nobody-made.", "kafka_create_topics": "false"}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (wrong_password, "refuses the login of 'ada': set MILLSTREAM_KAFKA_USER and the password"),
        (no_password, "cannot read MILLSTREAM_KAFKA_PASSWORD_FILE="),
        (wrong_authority, "presents a certificate that is not trusted"),
        (no_topics, "is missing and MILLSTREAM_KAFKA_CREATE_TOPICS=false: create it"),
    ],
)
def test_what_is_wrong_is_one_clear_error_and_the_service_serves(
    secure: Kafka, wrong: Callable[[Kafka, Path], dict[str, str]], problem: str, tmp_path: Path
) -> None:
    settings = {**secure.settings(ADA), **wrong(secure, tmp_path)}
    with one_service(tmp_path, settings) as registry:
        registry.until_it_reports(problem)
        assert registry.status().ready and list(registry.client.models()) == []
        lines = [json.loads(line) for line in registry.log.read_text().splitlines()]
        logged = [line for line in lines if line["level"] == "error"]
        assert {problem in line["problem"] for line in logged} == {True} and len(logged) <= 2, (
            "logged once for each component"
        )


def test_a_password_that_is_mended_needs_no_restart(secure: Kafka, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong")
    settings = {**secure.settings(ADA), "kafka_password_file": str(file), "kafka_prefix": f"{time.monotonic_ns()}."}
    with one_service(tmp_path, settings) as registry:
        registry.until_it_reports("refuses the login")
        file.write_text("right")
        registry.until_it_is_well()
