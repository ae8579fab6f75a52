"""The servers' programs: where they are, and their installation, once, below the user's cache folder."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.servers.process import CannotStart

HERE = Path(__file__).parent
KAFKA_VERSION = "4.3.0"
KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
MINIO_COMMIT = "7aac2a2c5b7c"
MINIO_MODULE = f"github.com/minio/minio@v0.0.0-20260212201848-{MINIO_COMMIT}"
"""The last commit of the community edition, which comes as source only; its release tags are refused by Go."""
GO_IMAGE = "golang:1.26-bookworm"
LEAST_JAVA = 17
INSTALL = "run `make servers` (python -m deploy.servers install)"


def cache() -> Path:
    """The cache folder: `$XDG_CACHE_HOME/millstream` or `~/.cache/millstream`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "millstream"


def kafka_folder() -> Path:
    """The folder of this version of Kafka; its jars are in `lib`."""
    return cache() / f"kafka-{KAFKA_VERSION}"


def minio_binary() -> Path:
    """The path of this version's program, installed or not."""
    return cache() / f"minio-{MINIO_COMMIT}" / "minio"


def java() -> str | None:
    """The path of a Java that is new enough for a broker; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        return None
    printed = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', printed)
    return found if version and int(version[1]) >= LEAST_JAVA else None


def java_for_kafka(folder: Path, container: str) -> list[str]:
    """The beginning of a command that runs one of Kafka's classes, which may touch `folder`. Raises CannotStart.

    It is this machine's Java, or else one in a container of this name, on the host's network and as the caller's user.
    """
    jars, program = kafka_folder() / "lib", java()
    if jars.is_dir() and program:
        return [program, "-cp", str(jars / "*")]
    if not _has_image():
        raise CannotStart(f"Kafka {KAFKA_VERSION} is not in {kafka_folder()}, with a Java to run it: {INSTALL}")
    inside = (
        "--network",
        "host",
        "--user",
        f"{os.getuid()}:{os.getgid()}",
        "-v",
        f"{folder}:{folder}",
        "-w",
        str(folder),
    )
    name = ("--name", container, "--entrypoint", "java")
    return ["docker", "run", "--rm", *inside, *name, KAFKA_IMAGE, "-cp", "/opt/kafka/libs/*"]


def _has_image() -> bool:
    if not shutil.which("docker"):
        return False
    inspect = ["docker", "image", "inspect", KAFKA_IMAGE]
    return subprocess.run(inspect, capture_output=True, check=False).returncode == 0


def minio() -> str:
    """The program. Raises CannotStart where it is not installed."""
    if not minio_binary().is_file():
        raise CannotStart(f"MinIO is not installed in {minio_binary().parent}: {INSTALL}")
    return str(minio_binary())


def install(report: Callable[[str], None]) -> None:
    """Install what is missing. `report` is a callback for progress. Raises CannotStart with what to install first."""
    install_kafka(report)
    install_minio(report)


def install_kafka(report: Callable[[str], None]) -> None:
    """Install Kafka's jars by Maven, or pull its Docker image."""
    if not (java() and shutil.which("mvn")):
        if not shutil.which("docker"):
            raise CannotStart(
                f"a Kafka broker needs Java {LEAST_JAVA} and Maven (java and mvn on PATH), or else Docker: install those"
            )
        report(f"Kafka {KAFKA_VERSION}: there is no Java {LEAST_JAVA} with Maven here, so Docker pulls {KAFKA_IMAGE}")
        return None if _has_image() else _run(["docker", "pull", KAFKA_IMAGE], {})
    with _installing(kafka_folder()) as beside:
        if beside is None:
            return None
        report(f"Kafka {KAFKA_VERSION}: Maven downloads its jars (44 MB) to {kafka_folder()}")
        copy = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={beside / 'lib'}")
        _run(["mvn", "-B", "-q", "-f", str(HERE / "pom.xml"), *copy], {})
    return None


def install_minio(report: Callable[[str], None]) -> None:
    """Build MinIO by Go, or by Go in Docker."""
    with _installing(minio_binary().parent) as beside:
        if beside is None:
            return
        report(f"MinIO {MINIO_COMMIT}: Go builds it from source in {minio_binary().parent}; 2 to 6 minutes, once")
        build = ["go", "install", "-trimpath", "-ldflags=-s -w", MINIO_MODULE]
        if shutil.which("go"):
            _run(build, {"GOBIN": str(beside), "CGO_ENABLED": "0", "GOFLAGS": ""})
        elif shutil.which("docker"):
            inside = ["docker", "run", "--rm", "-v", f"{beside}:/out", "-e", "GOBIN=/out", "-e", "CGO_ENABLED=0"]
            _run([*inside, GO_IMAGE, *build], {})
        else:
            raise CannotStart(
                "MinIO is built by Go: install Go 1.24 or newer, or Docker, or set TEST_MINIO=http://HOST:PORT"
            )


@contextmanager
def _installing(target: Path) -> Iterator[Path | None]:
    """A folder to fill, which then becomes `target`; None where that exists. One process at a time installs it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            yield None
            return
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield beside
            beside.chmod(0o755)
            beside.rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run it with its output on this terminal. Raises CannotStart if it fails."""
    code = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    if code:
        raise CannotStart(f"`{' '.join(command)}` ended with exit code {code}; see its output above")
