"""One evaluation: collect what it needs, measure, make the report."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.errors import Internal, InvalidArgument, NotFound, Unavailable
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule, ModelVersion
from recipekit.catalog import Catalog
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.parts import download_split
from servicekit.blobs.port import Blobs
from servicekit.children import ChildDied, run_child
from servicekit.files import scratch_folder
from services.evaluator import metrics
from services.evaluator.clients import Clients
from services.evaluator.due import ChampionAlias
from services.evaluator.measure import CannotEvaluate, Figures
from services.evaluator.measurement import Answer, ChampionRequest, Failure, Request, figures_of, read_answer
from services.evaluator.report.build import add_error, add_figures, report_on

log = logging.getLogger(__name__)
MODULE = "services.evaluator.measurement"
SCRATCH = ".measuring"
"""How the names of folders begin, in the cache, that hold the rows of a measurement."""


class MachineTrouble(Unavailable):
    """This machine cannot measure now: another may, or this one later. It says nothing against the version."""


class ChampionDied(MachineTrouble):
    """The process died, or exceeded its limit, while it measured the champion."""


class MeasurementFailed(Internal):
    """A bug, or a version that kills its process or exceeds the limit: it counts as a failed attempt."""


@dataclass(frozen=True)
class EvaluationInputs:
    """What one evaluation needs from other services."""

    version: ModelVersion
    champion: ChampionAlias
    gate: list[GateRule]
    """Empty: the recipe's own rules apply."""
    snapshot: Snapshot
    champion_version: ModelVersion | None = None
    """None: there is no other champion, or `champion_missing` says why it cannot be compared with."""
    champion_snapshot: Snapshot | None = None
    champion_missing: str = ""
    request_number: int = 0
    """Of the newest request for another report; 0: there is none."""

    def without_champion(self, reason: str) -> "EvaluationInputs":
        """The same, but the champion is left out, for this reason."""
        return replace(self, champion_version=None, champion_snapshot=None, champion_missing=reason)


class Evaluator:
    """Collects what an evaluation needs, and measures."""

    def __init__(
        self,
        blobs: Blobs,
        clients: Clients,
        cache: ArtifactCache,
        keep_artifacts: int,
        catalog: Catalog,
        limit_seconds: float,
    ) -> None:
        """`limit_seconds`: a measurement that is not done by then is ended."""
        self.blobs, self.clients, self.cache, self.catalog = blobs, clients, cache, catalog
        self.keep_artifacts, self.limit_seconds = keep_artifacts, limit_seconds

    async def collect(
        self, version: ModelVersion, champion: ChampionAlias, request_number: int = 0
    ) -> EvaluationInputs:
        """Ask registry and dataprep. Raises NotFound for what they do not have, Unavailable while one is down.

        Raises DataLoss for what is damaged, also of the champion: once it is restored, the report compares both.
        """
        await self._check_manifest(version)
        gate = await self.clients.gate(version.model)
        snapshot = await self.clients.snapshot(version.lineage)
        inputs = EvaluationInputs(version, champion, gate, snapshot, request_number=request_number)
        if champion.version in (0, version.version):
            return inputs
        try:
            other = await self.clients.version(version.model, champion.version)
            await self._check_manifest(other)
            same = other.lineage.snapshot_id == snapshot.snapshot_id
            other_snapshot = snapshot if same else await self.clients.snapshot(other.lineage)
        except (NotFound, InvalidArgument) as error:
            # A champion whose data is gone must not keep its challenger from a report.
            return inputs.without_champion(str(error))
        return replace(inputs, champion_version=other, champion_snapshot=other_snapshot)

    async def _check_manifest(self, version: ModelVersion) -> None:
        """Raise DataLoss for a damaged manifest here, where it costs no attempt."""
        with suppress(NotFound):  # the copy in the cache may be enough
            await artifacts.manifest(self.blobs, artifacts.prefix_of(version.artifact.digest))

    async def evaluate(self, inputs: EvaluationInputs) -> EvaluationReport:
        """The report, not stored yet, that compares a version with the champion.

        Raises MachineTrouble, ChampionDied, MeasurementFailed, and what the store raises.
        """
        started = time.monotonic()
        report = report_on(inputs.version, inputs.champion, inputs.request_number)
        try:
            figures = await self._figures(inputs)
        except CannotEvaluate as error:
            return add_error(report, str(error), started)
        add_figures(report, figures, inputs.gate, started)
        metrics.SECONDS.observe(time.monotonic() - started)
        metrics.LEFT_OUT.inc(figures.rows_left_out)
        return report

    async def _figures(self, inputs: EvaluationInputs) -> Figures:
        try:
            measured = await self._measure(inputs)
            if measured.is_doubtful and await self._remove_damaged(inputs):
                measured = await self._measure(inputs)
            await asyncio.to_thread(self.cache.keep_newest, self.keep_artifacts)
        except OSError as error:
            raise MachineTrouble(f"this machine cannot measure now: {error}") from error
        return measured.figures(self.catalog)

    async def _measure(self, inputs: EvaluationInputs) -> "Measurement":
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self.cache.folder / SCRATCH) as scratch:
            request = await self._request(inputs, scratch)
            try:
                data = await run_child(MODULE, request.model_dump_json().encode(), self.limit_seconds)
            except ChildDied as death:
                return Measurement(death=str(death), on_champion=request.champion_begun.exists())
            return Measurement(read_answer(data))

    async def _request(self, inputs: EvaluationInputs, scratch: Path) -> Request:
        parts = {
            split: await download_split(self.blobs, inputs.snapshot, split, scratch)
            for split in ("train", "validation", "test")
        }
        return Request(
            recipes=self.catalog.packages,
            folder=await self.cache.fetch(inputs.version.artifact.digest),
            **parts,
            champion=await self._champion(inputs, scratch / "of-champion"),
            champion_begun=scratch / "champion-begun",
            log_level=logging.getLevelName(log.getEffectiveLevel()),
        )

    async def _champion(self, inputs: EvaluationInputs, scratch: Path) -> ChampionRequest | None:
        """The champion's artifact and the rows that it has seen, or why they cannot be read."""
        version, snapshot = inputs.champion_version, inputs.champion_snapshot
        if inputs.champion_missing:
            return ChampionRequest(version=inputs.champion.version, train=None, missing=inputs.champion_missing)
        if not version or not snapshot:
            return None
        request = ChampionRequest(version=version.version, recipe=version.lineage.recipe, train=None)
        scratch.mkdir()
        try:
            if snapshot.snapshot_id == inputs.snapshot.snapshot_id:
                request.train = []
            else:
                request.validation = await download_split(self.blobs, snapshot, "validation", scratch)
                request.test = await download_split(self.blobs, snapshot, "test", scratch)
                # Last: without all of its rows, which labels a version keeps is not known.
                request.train = await download_split(self.blobs, snapshot, "train", scratch)
            request.folder = await self.cache.fetch(version.artifact.digest)
        except (NotFound, InvalidArgument) as error:
            log.warning("champion not readable", extra={"version": version.version, "error": str(error)})
            request.missing = str(error)
        return request

    async def _remove_damaged(self, inputs: EvaluationInputs) -> bool:
        """Whether a copy in the cache was damaged, or removed meanwhile: the next measurement fetches it again."""
        versions = [inputs.version, *([inputs.champion_version] if inputs.champion_version else [])]
        intact = [await self.cache.verify(version.artifact.digest) for version in versions]
        return not all(intact)


@dataclass(frozen=True)
class Measurement:
    """How a measurement ended."""

    answer: Answer = field(default_factory=Answer)
    death: str = ""
    """How its process died; "": it answered."""
    on_champion: bool = False
    """It died in the champion's turn."""

    @property
    def is_doubtful(self) -> bool:
        """A model failed, perhaps because its copy in the cache is damaged."""
        return not self.answer.complete

    def figures(self, catalog: Catalog) -> Figures:
        """Raises CannotEvaluate, MachineTrouble, ChampionDied or MeasurementFailed when there are none."""
        if self.answer.figures is not None:
            return figures_of(self.answer.figures, catalog)
        if self.on_champion:
            raise ChampionDied(f"the champion's measurement failed: {self.death}")
        if self.answer.failure == Failure.VERSION:
            raise CannotEvaluate(self.answer.text)
        if self.answer.failure == Failure.MACHINE:
            raise MachineTrouble(f"this machine cannot measure now: {self.answer.text}")
        raise MeasurementFailed(f"the measurement failed: {self.death or self.answer.text}")
