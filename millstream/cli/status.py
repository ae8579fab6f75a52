"""`millstream status`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from millstream.cli.command import Cli, Failed, command, explain
from millstream.cli.format import count
from millstream.cli.output import Cells, as_dict, table
from millstream.errors import DeadlineExceeded, MillstreamError, Unavailable
from millstream.operations.v1.service_status_pb2 import Dependency, ServiceStatus


@dataclass(frozen=True)
class Replica:
    """One process of a service, and what it says about itself, or why it says nothing."""

    service: str
    address: str
    status: ServiceStatus | None = None
    error: MillstreamError | None = None

    def problems(self) -> Iterator[str]:
        """What is wrong, in the words of whoever noticed."""
        if self.status is None:
            yield explain(self.error or Unavailable("no answer"))
            return
        status, consumer, outbox = self.status, self.status.consumer, self.status.outbox
        parts = {"blobs": status.blobs.problem, "bus": status.bus.problem}
        reasons = set(parts.values()) | {consumer.stopped_reason}
        if not status.ready and status.not_ready_reason not in reasons:
            yield f"not ready: {status.not_ready_reason}"
        yield from (f"{name}: {problem}" for name, problem in parts.items() if problem)
        if consumer.problem and consumer.problem != status.bus.problem:
            yield f"consumer: {consumer.problem}"
        if consumer.stopped_reason:
            yield f"consumer stopped: {consumer.stopped_reason}"
        if outbox.problem and outbox.problem not in parts.values():
            yield f"outbox: {outbox.problem}"
        if outbox.parked:
            yield f"outbox: {count(outbox.parked, 'fact')} set aside that a bug keeps from being published; see its log"


def add_commands(root: typer.Typer) -> None:
    command(root, "status")(status)


def status(
    cli: Cli, timeout: Annotated[float, typer.Option(help="seconds that a service has to answer")] = 5.0
) -> None:
    """How all services are, by what they tried last. Exit code 1 if anything is wrong."""
    places = cli.replicas()
    with ThreadPoolExecutor(len(places)) as threads:
        replicas = list(threads.map(lambda place: _ask(cli, place[0], place[1], timeout), places))
    if cli.screen.as_json:
        cli.screen.many([_document(replica) for replica in replicas], dict)
    else:
        table([_cells(replica) for replica in replicas])
    if wrong := _wrong(replicas):
        raise Failed("\n".join(wrong))


def _ask(cli: Cli, service: str, address: str, timeout: float) -> Replica:
    with cli.client_of(service, address) as client:
        try:
            return Replica(service, address, client.status(service, timeout))
        except MillstreamError as error:
            return Replica(service, address, error=error)


def _document(replica: Replica) -> dict[str, Any]:
    told = as_dict(replica.status) if replica.status else {}
    return {"service": replica.service, "address": replica.address, **told, "problems": list(replica.problems())}


def _wrong(replicas: list[Replica]) -> list[str]:
    """One line for each thing that is wrong, naming all who say it."""
    said: dict[str, list[str]] = {}
    for replica in replicas:
        for problem in replica.problems():
            said.setdefault(problem, []).append(f"{replica.service} ({replica.address})")
    return [f"{', '.join(actor)}: {problem}" for problem, actor in said.items()]


def _cells(replica: Replica) -> Cells:
    place = {"service": replica.service, "address": replica.address}
    status = replica.status
    if status is None:
        away = isinstance(replica.error, Unavailable | DeadlineExceeded)
        return {**place, **dict.fromkeys(COLUMNS, "-"), "ready": "no answer" if away else "refused"}
    return {
        **place,
        "ready": "yes" if status.ready else "NO",
        "blobs": _dependency(status.blobs),
        "bus": _dependency(status.bus),
        "reads": _reads(status),
        "outbox": _outbox(status),
        "commit": (status.commit[:12] or "-") + ("+" if status.dirty else ""),
    }


COLUMNS = ("ready", "blobs", "bus", "reads", "outbox", "commit")


def _dependency(part: Dependency) -> str:
    if part.problem:
        return "PROBLEM"
    return "ok" if part.ok else "untried"


def _reads(status: ServiceStatus) -> str:
    if not status.HasField("consumer"):
        return "-"
    if status.consumer.stopped_reason:
        return "STOPPED"
    return "PROBLEM" if status.consumer.problem else f"ok, {status.consumer.lag} behind"


def _outbox(status: ServiceStatus) -> str:
    if not status.HasField("outbox"):
        return "-"
    words = "PROBLEM" if status.outbox.problem or status.outbox.parked else "ok"
    return f"{words}, {status.outbox.pending} to say"
