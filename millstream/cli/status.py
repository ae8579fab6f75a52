"""`millstream status`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from millstream.cli.command import Cli, Failed, command, explain
from millstream.cli.format import count
from millstream.cli.output import Cells, as_dict, table
from millstream.cli.storage import show as show_storage
from millstream.errors import DeadlineExceeded, MillstreamError, Unavailable
from millstream.operations.v1.service_status_pb2 import Dependency, ServiceStatus


@dataclass(frozen=True)
class Replica:
    """One process of a service with its status, or the error of the call."""

    service: str
    address: str
    status: ServiceStatus | None = None
    error: MillstreamError | None = None

    def problems(self) -> Iterator[str]:
        """One text for each thing that is wrong, each once."""
        if self.status is None:
            yield explain(self.error or Unavailable("no answer"))
            return
        status, consumer, outbox = self.status, self.status.consumer, self.status.outbox
        dependencies = {"blobs": status.blobs.problem, "bus": status.bus.problem}
        if not status.ready and status.not_ready_reason not in dependencies.values():
            yield f"not ready: {status.not_ready_reason}"
        yield from (f"{name}: {problem}" for name, problem in dependencies.items() if problem)
        if consumer.problem and consumer.problem != status.bus.problem:
            yield f"consumer: {consumer.problem}"
        if consumer.flood:
            yield f"consumer: {consumer.flood}"
        if outbox.problem and outbox.problem not in dependencies.values():
            yield f"outbox: {outbox.problem}"
        if outbox.parked:
            yield f"outbox: {count(outbox.parked, 'fact')} parked that a bug keeps from being published; see its log"
        yield from status.damaged


def add_commands(root: typer.Typer) -> None:
    """Add status."""
    command(root, "status")(status)


def status(
    cli: Cli,
    timeout: Annotated[float, typer.Option(help="seconds that a service has to answer")] = 5.0,
    storage: Annotated[
        bool, typer.Option("--storage", help="what is stored, by kind, and how long it is kept")
    ] = False,
) -> None:
    """The status of every replica, by its last probes. Exit code 1 if anything is wrong."""
    places = cli.replicas()
    with ThreadPoolExecutor(len(places)) as threads:
        replicas = list(threads.map(lambda place: _replica(cli, place[0], place[1], timeout), places))
    if storage:
        show_storage(cli.screen, [replica.status for replica in replicas if replica.status])
    elif cli.screen.as_json:
        cli.screen.many([_document(replica) for replica in replicas], dict)
    else:
        table([_cells(replica) for replica in replicas])
    if problems := _problem_lines(replicas):
        raise Failed("\n".join(problems))


def _replica(cli: Cli, service: str, address: str, timeout: float) -> Replica:
    with cli.client_of(service, address) as client:
        try:
            return Replica(service, address, client.status(service, timeout))
        except MillstreamError as error:
            return Replica(service, address, error=error)


def _document(replica: Replica) -> dict[str, Any]:
    status = as_dict(replica.status) if replica.status else {}
    return {"service": replica.service, "address": replica.address, **status, "problems": list(replica.problems())}


def _problem_lines(replicas: list[Replica]) -> list[str]:
    """One line for each problem, led by all replicas that report it."""
    reported: dict[str, list[str]] = {}
    for replica in replicas:
        for problem in replica.problems():
            reported.setdefault(problem, []).append(f"{replica.service} ({replica.address})")
    return [f"{', '.join(names)}: {problem}" for problem, names in reported.items()]


def _cells(replica: Replica) -> Cells:
    place = {"service": replica.service, "address": replica.address}
    status = replica.status
    if status is None:
        away = isinstance(replica.error, Unavailable | DeadlineExceeded)
        return {**place, **dict.fromkeys(COLUMNS, "-"), "ready": "no answer" if away else "refused"}
    return {
        **place,
        "ready": "yes" if status.ready else "NO",
        "blobs": _format_dependency(status.blobs),
        "bus": _format_dependency(status.bus),
        "consumer": _format_consumer(status),
        "outbox": _format_outbox(status),
        "commit": (status.commit[:12] or "-") + ("+" if status.dirty else ""),
    }


COLUMNS = ("ready", "blobs", "bus", "consumer", "outbox", "commit")


def _format_dependency(dependency: Dependency) -> str:
    if dependency.problem:
        return "PROBLEM"
    return "ok" if dependency.ok else "not probed"


def _format_consumer(status: ServiceStatus) -> str:
    if not status.HasField("consumer"):
        return "-"
    if status.consumer.flood:
        return f"FLOOD, lag {status.consumer.lag}"
    return "PROBLEM" if status.consumer.problem else f"ok, lag {status.consumer.lag}"


def _format_outbox(status: ServiceStatus) -> str:
    if not status.HasField("outbox"):
        return "-"
    health = "PROBLEM" if status.outbox.problem or status.outbox.parked else "ok"
    return f"{health}, {status.outbox.pending} pending"
