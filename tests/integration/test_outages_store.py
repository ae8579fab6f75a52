"""With the store down inference goes on and all else is refused at once; and what is wrong with it is one clear error."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import pytest
from minio import Minio as S3

from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.minio import Minio
from millstream import Client
from millstream.defaults import SERVICES
from millstream.errors import Unavailable
from tests.chaos.faults import FullDisk
from tests.chaos.target import can_mount, small_disk
from tests.e2e import invariants, scenario
from tests.e2e.scenario import DATASET, MODEL
from tests.integration.outages import bring_to_serving, facts, needs_the_store, one_service, problems, published
from tests.worlds.platform import RECIPES, ROOT, World, wait_until, world
from tests.worlds.servers import Broker, admin_of, root, running

BUCKET = "millstream"


def test_without_the_store_inference_answers_and_all_else_is_refused_until_it_is_back(
    own_minio: Callable[..., Minio], kafka: Broker, tmp_path: Path
) -> None:
    store = own_minio()
    settings = {**kafka.settings(), "kafka_prefix": f"{tmp_path.name}.", **store.settings(BUCKET)}
    with world(tmp_path / "state", kind="local", settings=settings, resync_seconds=1) as platform:
        platform.store = store.settings(BUCKET)
        assert bring_to_serving(platform, scenario.a_file(tmp_path)).version == 1
        with platform.client() as client:
            calls = needs_the_store(client, scenario.a_file(tmp_path), tmp_path / "artifact")
            store.kill()
            with ThreadPoolExecutor(len(calls)) as threads:
                refused = threads.map(lambda call: refused_for(call, store), calls)
                check_answers(client)
                assert list(refused) == [""] * len(calls)
            wait_until(lambda: all(away(platform, store)), "every service reports that the store is away")
            assert [service for service in SERVICES if client.status(service).ready] == ["inference"]
            check_answers(client)
            store.start()
            wait_until(lambda: not any(problems(platform)), "every service reports that all is well")
            check_answers(client)
            assert bring_to_serving(platform, scenario.a_file(tmp_path, skip=20)).version == 2
            wait_until(lambda: facts(platform) <= published(platform), "every fact is published")
            invariants.check(platform.blobs(), client, MODEL, DATASET, files=2)


def check_answers(client: Client) -> None:
    """Inference is ready, and answers by the version that it has loaded."""
    assert client.status("inference").ready
    assert client.classify(MODEL, ["kind"]).served.version == 1
    assert len(list(client.served())) == 1


def refused_for(call: Callable[[], object], store: Minio) -> str:
    """What was not right with how a call was refused; "" if all was."""
    try:
        return f"{call} answered {call()}"
    except Unavailable as error:
        lines = store.endpoint in str(error) and "start it" in str(error)
        return "" if lines else f"{call} says: {error}"


def away(platform: World, store: Minio) -> list[bool]:
    """Of each service, whether it reports that the store must be started, and nothing else."""
    return [len(found) == 1 and store.endpoint in found[0] and "start it" in found[0] for found in problems(platform)]


@dataclass(frozen=True)
class Wrong:
    """Wrong settings of the store, and what repairs them; None: only other settings do."""

    settings: dict[str, str]
    repair: Callable[[], object] | None = None


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with running(Minio(tmp_path_factory.mktemp("plain"))) as store:
        yield store


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A store that is reached over TLS."""
    if not can_make_certificates():
        pytest.skip("certificates are made with the openssl command, which is not installed")
    with running(Minio(tmp_path_factory.mktemp("secure"), tls=True)) as store:
        yield store


def wrong_key(store: Minio, folder: Path, which: str, right: Path, text: str = "certainly-wrong") -> Wrong:
    """One of the keys, in a file with this text, or in no file where the text is empty."""
    file = folder / which
    if text:
        file.write_text(text)
    settings = {**store.settings(BUCKET), f"minio_{which}_key_file": str(file)}
    return Wrong(settings, lambda: file.write_text(right.read_text()))


def wrong_secret(store: Minio, folder: Path) -> Wrong:
    return wrong_key(store, folder, "secret", store.secret_key_file)


def wrong_user(store: Minio, folder: Path) -> Wrong:
    return wrong_key(store, folder, "access", store.access_key_file)


def missing_file(store: Minio, folder: Path) -> Wrong:
    return wrong_key(store, folder, "secret", store.secret_key_file, "")


def missing_bucket(store: Minio, folder: Path) -> Wrong:
    owner = S3(store.endpoint.partition("://")[2], secure=False, credentials=root(store))
    return Wrong({**store.settings("by-hand"), "minio_create_bucket": "false"}, lambda: owner.make_bucket("by-hand"))


def read_only(store: Minio, folder: Path) -> Wrong:
    """The keys of a user of the store's that may only read, until it may write too."""
    admin = admin_of(store)
    admin.user_add("reader", "reader-secret")
    admin.policy_set("readonly", user="reader")
    files = {"access": folder / "access", "secret": folder / "secret"}
    for which, text in (("access", "reader"), ("secret", "reader-secret")):
        files[which].write_text(text)
    settings = {f"minio_{which}_key_file": str(file) for which, file in files.items()}
    return Wrong({**store.settings(BUCKET), **settings}, lambda: admin.policy_set("readwrite", user="reader"))


def tls_to_none(store: Minio, folder: Path) -> Wrong:
    settings = store.settings(BUCKET)
    return Wrong({**settings, "blobs": settings["blobs"].replace("http:", "https:")})


def no_tls(store: Minio, folder: Path) -> Wrong:
    settings = store.settings(BUCKET)
    return Wrong({**settings, "blobs": settings["blobs"].replace("https:", "http:")})


def wrong_authority(store: Minio, folder: Path) -> Wrong:
    file = Authority.make(folder / "other").ca_file
    return Wrong(
        {**store.settings(BUCKET), "minio_ca_file": str(file)}, lambda: file.write_text(store.ca_file.read_text())
    )


def killed(store: Minio, folder: Path) -> Wrong:
    store.kill()
    return Wrong(store.settings(BUCKET), store.start)


@pytest.mark.parametrize(
    ("at", "wrong", "words"),
    [
        ("plain", wrong_secret, "the secret key in MILLSTREAM_MINIO_SECRET_KEY_FILE ("),
        ("plain", wrong_user, "it does not know the access key in MILLSTREAM_MINIO_ACCESS_KEY_FILE ("),
        ("plain", missing_file, "cannot read MILLSTREAM_MINIO_SECRET_KEY_FILE="),
        ("plain", missing_bucket, "bucket by-hand is missing: create it, or set MILLSTREAM_MINIO_CREATE_BUCKET=true"),
        ("plain", read_only, "access denied to bucket millstream ("),
        ("plain", tls_to_none, "it does not speak TLS: write http:// in MILLSTREAM_BLOBS"),
        ("secure", no_tls, "it speaks TLS: write https:// in MILLSTREAM_BLOBS"),
        ("secure", wrong_authority, "its certificate is not trusted: set MILLSTREAM_MINIO_CA_FILE ("),
        ("secure", killed, "cannot be reached ("),
    ],
)
def test_what_is_wrong_is_one_clear_error_until_it_is_mended(
    at: str, wrong: Callable[[Minio, Path], Wrong], words: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = wrong(request.getfixturevalue(at), tmp_path)
    with one_service(tmp_path, given.settings) as registry:
        registry.until_it_reports(words)
        lines = [json.loads(line) for line in registry.log.read_text().splitlines()]
        assert {line["problem"] for line in lines if line["level"] == "error"} == {registry.status().blobs.problem}
        assert not registry.status().ready
        with pytest.raises(Unavailable) as refused:
            list(registry.client.models())
        assert words in str(refused.value)
        if given.repair:
            given.repair()
            registry.until_it_is_well()
            assert list(registry.client.models()) == []


@pytest.mark.skipif(not can_mount(), reason="a small file system of our own takes root's powers")
def test_a_full_disk_is_one_clear_error_until_there_is_room(tmp_path: Path) -> None:
    store = Minio(tmp_path / "minio")
    settings = {**store.settings(BUCKET), "recipes": RECIPES}
    with small_disk(store.data), running(store), one_service(tmp_path, settings) as registry:
        registry.until_it_is_well()
        spec = {**scenario.SPEC, "model": "before"}
        registry.client.apply_model(spec)
        disk = FullDisk(store.data)
        disk.begin()
        registry.until_it_reports("it has no space left (XMinioStorageFull): free space on its disks")
        with pytest.raises(Unavailable, match="no space left"):
            registry.client.apply_model({**spec, "model": "while"})
        assert [model.name for model in registry.client.models()] == ["before"], "what is there can be read"
        disk.heal()
        registry.until_it_is_well()
        registry.client.apply_model({**spec, "model": "while"})
        assert [model.name for model in registry.client.models()] == ["before", "while"]


@pytest.mark.parametrize("address", ["minio:http://127.0.0.1:9000", "minio:http://127.0.0.1:9000/No", "s3:bucket"])
def test_an_address_that_is_none_ends_the_start_in_one_line(address: str) -> None:
    environment = {**os.environ, "MILLSTREAM_BLOBS": address}
    run = subprocess.run(
        [sys.executable, "-m", "services.registry"], cwd=ROOT, env=environment, stderr=PIPE, text=True, check=False
    )
    (line,) = run.stderr.splitlines()
    assert run.returncode == 2 and address in line and "use " in line
