"""`millstream status`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from millstream.channel import call_timeout
from millstream.cli.command import Cli, Failed, command, explain
from millstream.cli.format import count
from millstream.cli.hints import PlatformOptions, carrying, with_options
from millstream.cli.output import Cells, as_dict, table
from millstream.cli.storage import show as show_storage
from millstream.errors import DeadlineExceeded, MillstreamError, Unavailable
from millstream.inference.v1.inference_service_pb2 import LoadProblem
from millstream.operations.v1.service_status_pb2 import Dependency, ServiceStatus

T = TypeVar("T")
MOST_COUNTED = 1000
"""Dead letters that are counted: a flood has millions."""


@dataclass(frozen=True)
class Replica:
    """One process of a service with its status, or the error of the call."""

    service: str
    address: str
    status: ServiceStatus | None = None
    error: MillstreamError | None = None
    dead_letters: int | None = None
    """Without a resolution; None: not known, as to a caller who is no operator."""
    unserved: tuple[LoadProblem, ...] = ()
    """Of inference: the aliases that it does not serve by the version that they name."""

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
            yield (
                f"outbox: {count(outbox.parked, 'fact')} parked that this version cannot publish; its log has them (`fact "
                "parked`), and its next start, as of a corrected version, retries them"
            )
        yield from status.damaged
        if self.dead_letters:
            letters = (
                count(self.dead_letters, "dead letter") if self.dead_letters < MOST_COUNTED else "many dead letters"
            )
            yield f"{letters} that nobody has replayed or dropped: `millstream dlq list {self.service}`"
        yield from map(_unserved_line, self.unserved)


def _unserved_line(problem: LoadProblem) -> str:
    if not problem.version:
        return f"{problem.model} {problem.alias}: {problem.reason}: `millstream models problems {problem.model}`"
    version = f"{problem.model} version {problem.version}, which {problem.alias} names"
    if not problem.refused:
        return f"{version}, is not loaded here: {problem.reason}: `millstream models problems {problem.model}`"
    ways = f"`millstream rollback {problem.model}`, or `millstream models retry {problem.model} {problem.version}`"
    return f"{version}, is refused by inference: {problem.reason}: {ways}"


def add_commands(root: typer.Typer) -> None:
    """Add status."""
    command(root, "status")(status)


def status(
    cli: Cli,
    timeout: Annotated[float, typer.Option(help="seconds that a service has to answer")] = 5.0,
    storage: Annotated[
        bool, typer.Option("--storage", help="what is stored, by kind, and how long it is kept")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(help="the folder that `up` was given: all replicas of the platform on it")
    ] = None,
) -> None:
    """The status of every replica, by its last probes. Exit code 1 if anything is wrong, or waits for a person.

    That includes dead letters, parked facts, and versions that inference does not serve; each has a line with the next
    command. Without --state the replicas are those of --host and --port-base, or of the platform on .millstream.
    """
    places = cli.replicas(state)
    with carrying(PlatformOptions.of_state(state)) if state else nullcontext():
        _show(cli, places, timeout, storage)


def _show(cli: Cli, places: Sequence[tuple[str, str]], timeout: float, storage: bool) -> None:
    """Ask all replicas and print. Raises Failed with what is wrong."""
    with ThreadPoolExecutor(len(places)) as threads:
        replicas = list(threads.map(lambda place: _replica(cli, place[0], place[1], timeout), places))
    if storage:
        show_storage(cli.screen, [replica.status for replica in replicas if replica.status])
    elif cli.screen.as_json:
        cli.screen.many([_document(replica) for replica in replicas], dict)
    else:
        table([_cells(replica) for replica in replicas])
    if problems := _problem_lines(replicas):
        raise Failed(with_options("\n".join(problems)))


def _replica(cli: Cli, service: str, address: str, timeout: float) -> Replica:
    with cli.client_of(service, address) as client:
        try:
            status = client.status(service, timeout)
        except MillstreamError as error:
            return Replica(service, address, error=error)
        with call_timeout(timeout):
            letters = _known(lambda: sum(1 for _ in islice(client.dead_letters(service), MOST_COUNTED)))
            unserved = _known(lambda: tuple(client.load_problems())) if service == "inference" else ()
        return Replica(service, address, status, dead_letters=letters, unserved=unserved or ())


def _known(ask: Callable[[], T]) -> T | None:
    """None where the service cannot answer now, as its status says, or the caller may not know."""
    try:
        return ask()
    except MillstreamError:
        return None


def _document(replica: Replica) -> dict[str, Any]:
    status = as_dict(replica.status) if replica.status else {}
    more = {"dead_letters": replica.dead_letters, "unserved": [as_dict(one) for one in replica.unserved]}
    problems = [with_options(problem) for problem in replica.problems()]
    return {"service": replica.service, "address": replica.address, **status, **more, "problems": problems}


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
        "dead letters": "unknown" if replica.dead_letters is None else replica.dead_letters,
        "commit": (status.commit[:12] or "-") + ("+" if status.dirty else ""),
    }


COLUMNS = ("ready", "blobs", "bus", "consumer", "outbox", "dead letters", "commit")


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
