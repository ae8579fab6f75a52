"""All runs in the order of their requests: a ledger of small entries, `runs/index/{n}`, and what of it is in memory."""

from collections.abc import Sequence
from typing import NamedTuple

from millstream.timestamps import seconds_of
from millstream.training.v1.attempt_pb2 import IndexedRun, RunRequest
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import Ledger

Order = tuple[int, int]
"""Of a model's automatic runs: number of the model's spec, then of the snapshot."""


class NewestAutomatic(NamedTuple):
    """Of a model's automatic runs the one of the greatest order, and the time of the newest request in seconds."""

    order: Order = (0, 0)
    run_id: str = ""
    time: float = 0.0


class RunIndex:
    """So a listing costs what it shows. A run that its request did not add is added by its reconcile."""

    def __init__(self, blobs: Blobs) -> None:
        self._ledger = Ledger(blobs, "runs/index", IndexedRun, small=True)
        self._read = 0
        self._known: set[str] = set()
        self._ids: dict[str, list[str]] = {}
        """By model, oldest first; of all models under ""."""
        self._newest_automatic: dict[str, NewestAutomatic] = {}
        """By model."""

    def has(self, run_id: str) -> bool:
        """Whether the run is known to be in the index."""
        return run_id in self._known

    async def add(self, request: RunRequest) -> None:
        """Put a run into the index, once. Raises Unavailable."""
        if not self.has(request.run_id):
            await self._refresh()
        if self.has(request.run_id):
            return
        entry = IndexedRun(run_id=request.run_id, model=request.spec.model, automatic=request.automatic)
        entry.model_spec_number, entry.dataset_number = request.model_spec_number, request.spec.dataset_number
        entry.time.CopyFrom(request.time)
        await self._ledger.append(entry, request_id=request.run_id)
        await self._refresh()

    async def newest_first(self, model: str = "") -> Sequence[str]:
        """The ids of all runs, or of those of one model. Raises Unavailable."""
        await self._refresh()
        return self._ids.get(model, [])[::-1]

    async def newest_automatic(self, model: str) -> NewestAutomatic:
        """Of a model's automatic runs. Raises Unavailable."""
        await self._refresh()
        return self._newest_automatic.get(model, NewestAutomatic())

    async def _refresh(self) -> None:
        index = await self._ledger.index()
        for run in index.messages[self._read :]:
            # A damaged entry is none, and its run may be in the index twice.
            if run and run.run_id not in self._known:
                self._add(run)
        self._read = index.covered

    def _add(self, run: IndexedRun) -> None:
        self._known.add(run.run_id)
        for model in ("", run.model):
            self._ids.setdefault(model, []).append(run.run_id)
        if run.automatic:
            known = self._newest_automatic.get(run.model, NewestAutomatic())
            order, time = (run.model_spec_number, run.dataset_number), max(known.time, seconds_of(run.time))
            greatest = (order, run.run_id) if order > known.order else (known.order, known.run_id)
            self._newest_automatic[run.model] = NewestAutomatic(*greatest, time)
