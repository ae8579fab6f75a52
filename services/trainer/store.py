"""The trainer's objects, and the events that they mean. Its worker uses them too."""

from collections.abc import AsyncIterator, Collection, MutableMapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

from cachetools import LRUCache
from google.protobuf.message import Message

from millstream.errors import DataLoss, NotFound
from millstream.timestamps import now
from millstream.training.v1 import events_pb2 as events
from millstream.training.v1.attempt_pb2 import AttemptEnd, AttemptFailure, RunNumerics, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.blobs.stored_messages import stored_messages
from servicekit.facts.lease import Leases
from servicekit.facts.open_work import OpenWork
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.failpoints import failpoint
from services.trainer.described import describe, fill_in
from services.trainer.run_index import RunIndex

M = TypeVar("M", bound=Message)
Ending = AttemptFailure | AttemptEnd
RUNS, STATES = 1024, 100_000
"""Runs that are kept, and ended runs of which the state is."""
REASON_LENGTH = 1000
"""Characters of a reason that its event carries; the outcome has all of it."""


class Store:
    """`runs/requests|outcomes|numerics/{run_id}` and `runs/attempts/{run_id}/{n}/…`.

    Every method may raise Unavailable, and DataLoss where it needs an object that is damaged.
    """

    def __init__(self, blobs: Blobs, outbox: Outbox, lease_seconds: float) -> None:
        self.blobs, self.outbox, self.lease_seconds = blobs, outbox, lease_seconds
        self.open_work, self.index = OpenWork(blobs, "trainer"), RunIndex(blobs)
        self._requests: MutableMapping[str, RunRequest] = LRUCache(RUNS)
        self._outcomes: MutableMapping[str, RunOutcome] = LRUCache(RUNS)
        self._states: MutableMapping[str, TrainingRun.State.ValueType] = LRUCache(STATES)
        self._leases: dict[str, Leases] = {}
        self._endings: dict[str, dict[int, Ending]] = {}
        self._ended: MutableMapping[str, TrainingRun] = LRUCache(RUNS)

    async def open_run_ids(self, model: str = "") -> list[str]:
        """Of runs that have no outcome, of one model or of all, in order of id."""
        created = await self.open_work.of_kind(events.TrainingRunCreated, lambda fact: f"runs/requests/{fact.run_id}")
        run_ids = sorted(fact.run_id for fact in created if model in ("", fact.model))
        return [run_id for run_id in run_ids if not await self.has_ended(run_id)]

    async def compare(self) -> tuple[list[str], list[DataLoss]]:
        """Runs that have no outcome, found among all there are, and an error for each request or outcome that is damaged.

        A run that had no marker of open work, or was not in the index, has and is from now on.
        """
        requests = await stored_messages(self.blobs, "runs/requests/", RunRequest)
        outcomes = await stored_messages(self.blobs, "runs/outcomes/", RunOutcome)
        found = sorted(requests.names - outcomes.names)
        for run_id in set(found) - {*requests.damaged, *await self.open_run_ids()}:
            await self.outbox.reopen(f"runs/requests/{run_id}")
        for run_id in requests.intact:
            if not self.index.has(run_id):
                await self.index.add(await self.request(run_id))
        return found, [*requests.damaged.values(), *outcomes.damaged.values()]

    async def fits(self, run_id: str, states: Collection["TrainingRun.State.ValueType"]) -> bool:
        """Whether the run is in one of the states; one whose outcome is damaged is in none. Raises NotFound, Unavailable."""
        if run_id not in self._states:
            try:
                outcome = await self.outcome(run_id)
            except DataLoss:
                return False
            if not outcome:
                return (await self.listed_run(run_id)).state in states
            self._states[run_id] = outcome.state
        return self._states[run_id] in states

    async def request(self, run_id: str) -> RunRequest:
        """Raises NotFound."""
        if run_id not in self._requests:
            try:
                data = await self.blobs.get(key := f"runs/requests/{run_id}")
            except NotFound:
                raise NotFound(f"no training run {run_id}; see `millstream runs list`", run_id=run_id) from None
            self._requests[run_id] = decode(RunRequest, data, key)
        return self._requests[run_id]

    async def create(self, request: RunRequest) -> bool:
        """Store the request of a run; False: there is a run of that id."""
        created = await self.outbox.put(f"runs/requests/{request.run_id}", _bytes(request))
        failpoint("trainer.run-stored")
        if created:
            await self.index.add(request)
        return created

    async def outcome(self, run_id: str) -> RunOutcome | None:
        """None: the run has not ended."""
        if run_id not in self._outcomes:
            found = await self._read(f"runs/outcomes/{run_id}", RunOutcome)
            if not found:
                return None
            self._outcomes[run_id] = found
        return self._outcomes[run_id]

    async def end(self, outcome: RunOutcome) -> bool:
        """Give a run its one outcome; False: it has another."""
        outcome.time.CopyFrom(now())
        return await self.outbox.put(f"runs/outcomes/{outcome.run_id}", _bytes(outcome))

    def attempts(self, run_id: str) -> Leases:
        """The leases of a run's attempts; until it has ended the same object each time: heartbeats are judged over time."""
        if run_id not in self._leases:
            self._leases[run_id] = Leases(self.blobs, f"runs/attempts/{run_id}", self.lease_seconds, self.outbox.put)
        return self._leases[run_id]

    async def fail(self, run_id: str, attempt: int, failure: AttemptFailure) -> None:
        """Store why an attempt failed; the first failure stays."""
        failure.time.CopyFrom(now())
        await self.blobs.put_if_absent(f"{self._folder(run_id, attempt)}/failure", _bytes(failure))

    async def end_attempt(self, run_id: str, attempt: int, end: AttemptEnd) -> bool:
        """Store how an attempt ended that left no failure; False: it has an end."""
        end.time.CopyFrom(now())
        return await self.blobs.put_if_absent(f"{self._folder(run_id, attempt)}/end", _bytes(end))

    async def ending(self, run_id: str, attempt: int) -> Ending | None:
        """How an attempt ended; None: it has left no failure and no end. The failure counts if there are both."""
        known = self._endings.setdefault(run_id, {})
        if attempt not in known:
            folder = self._folder(run_id, attempt)
            found = await self._read(f"{folder}/failure", AttemptFailure) or await self._read(
                f"{folder}/end", AttemptEnd
            )
            if not found:
                return None
            known[attempt] = found
        return known[attempt]

    async def endings(self, run_id: str, newest: int) -> list[Ending]:
        """Of all attempts up to the newest, those that ended, oldest first."""
        found = [await self.ending(run_id, attempt) for attempt in range(1, newest + 1)]
        return [ending for ending in found if ending]

    def forget_attempts(self, run_id: str) -> None:
        """Drop what is kept of the attempts of a run that has ended."""
        self._endings.pop(run_id, None)
        self._leases.pop(run_id, None)

    async def progress(self, run_id: str, newest: int) -> RunProgress | None:
        """The latest reported progress: of the newest attempt that reported any; None: none did.

        A damaged one counts as none: it is overwritten each second, so no backup has it.
        """
        for attempt in range(newest, 0, -1):
            with suppress(DataLoss):
                if found := await self._read(f"{self._folder(run_id, attempt)}/progress", RunProgress):
                    return found
        return None

    async def report(self, run_id: str, attempt: int, progress: RunProgress) -> None:
        """Replace the attempt's progress."""
        await self.blobs.put(f"{self._folder(run_id, attempt)}/progress", _bytes(progress))

    async def numerics(self, run_id: str) -> RunNumerics | None:
        """Those of the run's first attempt; None: it has not fixed them yet."""
        return await self._read(f"runs/numerics/{run_id}", RunNumerics)

    async def fix_numerics(self, run_id: str, numerics: RunNumerics) -> RunNumerics:
        """Store the numerics unless another attempt did; returns those that are stored."""
        await self.blobs.put_if_absent(f"runs/numerics/{run_id}", _bytes(numerics))
        return await self.numerics(run_id) or numerics

    async def add_log(self, run_id: str, attempt: int, number: int, chunk: bytes) -> None:
        """Store one chunk of an attempt's log, numbered from 1. Idempotent."""
        await self.blobs.put(f"{self._folder(run_id, attempt)}/log/{number:010d}", chunk)

    async def log_size(self, run_id: str, attempt: int) -> tuple[int, int]:
        """How many chunks of an attempt's log are stored, and their bytes together."""
        sizes = [listed.size async for listed in self.blobs.list(f"{self._folder(run_id, attempt)}/log/")]
        return len(sizes), sum(sizes)

    async def log(self, run_id: str, after: str) -> AsyncIterator[tuple[str, int, bytes]]:
        """(place, attempt, chunk) of the workers' output after a place; the empty place is the beginning."""
        prefix = f"runs/attempts/{run_id}/"
        async for listed in self.blobs.list(prefix, after):
            attempt, kind = listed.key[len(prefix) :].split("/")[:2]
            if kind != "log":
                continue
            with suppress(NotFound):
                chunk = await self.blobs.get(listed.key)
                yield listed.key, int(attempt), chunk

    async def run(self, run_id: str) -> TrainingRun:
        """The run, put together from its objects. Raises NotFound."""
        if run_id in self._ended:
            return self._ended[run_id]
        request, outcome = await self.request(run_id), await self.outcome(run_id)
        run = TrainingRun(run_id=run_id)
        describe(run, request)
        run.attempt = await self.attempts(run_id).newest()
        problem = ""
        if run.attempt:
            try:
                run.start_time.CopyFrom((await self.attempts(run_id).read(1)).time)
            except DataLoss as error:
                problem = error.text
            if progress := await self.progress(run_id, run.attempt):
                run.progress.CopyFrom(progress)
        run.state = TrainingRun.STATE_RUNNING if run.attempt else TrainingRun.STATE_PENDING
        if outcome:
            fill_in(run, outcome)
            run.reason = run.reason or problem
            if not problem:
                self._ended[run_id] = run
                self.forget_attempts(run_id)
        elif problem:
            run.reason = problem
        elif run.attempt and (ending := await self.ending(run_id, run.attempt)):
            run.reason = f"waits: {reason_of(ending)}"
        return run

    async def listed_run(self, run_id: str) -> TrainingRun:
        """As run(); of one with a damaged object what is known of it, without a state, and why. Raises NotFound."""
        try:
            return await self.run(run_id)
        except DataLoss as error:
            run = TrainingRun(run_id=run_id, reason=error.text)
        with suppress(DataLoss):
            request = await self.request(run_id)
            describe(run, request)
        return run

    async def has_ended(self, run_id: str) -> bool:
        """Whether the run has an outcome, damaged or not."""
        return run_id in self._outcomes or await self.blobs.exists(f"runs/outcomes/{run_id}")

    def _folder(self, run_id: str, attempt: int) -> str:
        return self.attempts(run_id).folder(attempt)

    async def _read(self, key: str, kind: type[M]) -> M | None:
        try:
            data = await self.blobs.get(key)
        except NotFound:
            return None
        return decode(kind, data, key)


def reason_of(ending: Ending) -> str:
    """Why an attempt ended, in a line."""
    return f"{ending.error_class}: {ending.message}" if isinstance(ending, AttemptFailure) else ending.reason


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _created(key: str, data: bytes) -> Fact:
    request = decode(RunRequest, data, key)
    return Fact(request.run_id, events.TrainingRunCreated(run_id=request.run_id, model=request.spec.model))


def _started(key: str, data: bytes) -> Fact:
    _, _, run_id, attempt, _ = key.split("/")
    return Fact(run_id, events.TrainingRunStarted(run_id=run_id, attempt=int(attempt)))


def _ended(key: str, data: bytes) -> Fact:
    outcome = decode(RunOutcome, data, key)
    run_id, model = outcome.run_id, outcome.model
    if outcome.state == TrainingRun.STATE_SUCCEEDED:
        digest = outcome.artifact.digest
        return Fact(run_id, events.TrainingRunSucceeded(run_id=run_id, model=model, artifact_digest=digest))
    failed = outcome.state == TrainingRun.STATE_FAILED
    build = partial(events.TrainingRunFailed if failed else events.TrainingRunCancelled, run_id=run_id, model=model)
    return Fact(run_id, build(reason=outcome.reason[:REASON_LENGTH]))


FACTS: Announce = {
    "runs/requests/*": _created,
    "runs/attempts/*/*/claim": _started,
    "runs/outcomes/*": _ended,
}
