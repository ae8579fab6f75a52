"""`python -m deploy.servers`: a Kafka broker and a MinIO until Ctrl-C; `python -m deploy.servers install`: their programs.

It prints one line `ready {settings as JSON}` on stdout once both serve; all else goes to stderr.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.ports import is_free
from deploy.servers import binaries
from deploy.servers.kafka import Kafka
from deploy.servers.minio import Minio
from deploy.servers.process import CannotStart

KAFKA_PORT, MINIO_PORT = 9092, 9000
BUCKET = "millstream"
ENDINGS = {signal.SIGINT, signal.SIGTERM}


def report(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="deploy.servers", description="A Kafka broker and a MinIO on this machine.")
    parser.add_argument(
        "what", nargs="?", choices=["run", "install"], default="run", help="run both, or install their programs"
    )
    parser.add_argument("--folder", type=Path, default=Path(".millstream/servers"), help="their data, keys and logs")
    return parser.parse_args(given)


def run(folder: Path) -> None:
    """Run both until SIGINT or SIGTERM, on their usual ports or on free ones where those are taken. Raises CannotStart."""
    kafka = Kafka(folder / "kafka", port=KAFKA_PORT if is_free(KAFKA_PORT) else 0)
    minio = Minio(folder / "minio", port=MINIO_PORT if is_free(MINIO_PORT) else 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        for server in (kafka, minio):
            server.start()
        settings = {**kafka.settings(), **minio.settings(BUCKET)}
        print(
            "ready", json.dumps({f"MILLSTREAM_{name.upper()}": value for name, value in settings.items()}), flush=True
        )
        report(
            f"Kafka at {kafka.address} and MinIO at {minio.endpoint}, all in {folder}; Ctrl-C ends both. To run on them:"
        )
        report("  millstream up " + " ".join(f"--set {name}={value}" for name, value in settings.items()))
        signal.sigwait(ENDINGS)
        report("stopping both")
    finally:
        for server in (minio, kafka):
            server.stop()


def main() -> None:
    """Run the command. Exit code 1 with the reason if a server cannot start."""
    options = arguments()
    try:
        if options.what == "install":
            binaries.install(report)
            report(f"Kafka {binaries.KAFKA_VERSION} and MinIO {binaries.MINIO_COMMIT} are in {binaries.cache()}")
        else:
            run(options.folder.absolute())
    except CannotStart as refusal:
        report(str(refusal))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
