"""One evaluation: ask for everything that is needed, bring it here, measure, make the report."""

import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule, ModelVersion
from recipekit.catalog import Catalog
from recipekit.spec import Row
from servicekit.blobs import artifacts
from servicekit.blobs.parts import read_split
from servicekit.blobs.port import Blobs
from services.evaluator import metrics
from services.evaluator.clients import Clients
from services.evaluator.due import Champion
from services.evaluator.measure import CannotEvaluate, Figures, Rival, in_background, measure
from services.evaluator.report.build import add_error, add_figures, report_on

log = logging.getLogger(__name__)
ABANDONED_SECONDS = 3600.0
"""Age at which a download that never ended is taken for one whose process died."""


@dataclass(frozen=True)
class EvaluationInputs:
    """All that peers have to say for one evaluation. `rival` is the champion if that is another version."""

    version: ModelVersion
    champion: Champion
    gate: list[GateRule]
    snapshot: Snapshot
    rival: ModelVersion | None = None
    rival_snapshot: Snapshot | None = None
    rival_missing: str = ""


class Cache:
    """Downloaded artifacts in a folder that does not grow: the ones used last stay.

    Replicas may share the folder: an artifact comes and goes by one rename.
    """

    def __init__(self, blobs: Blobs, folder: Path, keep: int) -> None:
        self.blobs, self.folder, self.keep = blobs, folder, keep

    async def fetch(self, digest: str) -> Path:
        """The artifact's folder, verified. Raises NotFound, or InvalidArgument when its bytes were damaged."""
        while True:
            found = await artifacts.fetch(self.blobs, digest, self.folder)
            # Another replica may prune it between the two: it is fetched anew then.
            with suppress(FileNotFoundError):
                os.utime(found)
                return found

    def prune(self) -> None:
        """Remove all but the newest few, and what a killed download left. Blocking."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            whole = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            whole.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in whole[self.keep :]:
                going = path.with_name(f".going-{path.name}-{os.getpid()}")
                path.rename(going)
                shutil.rmtree(going, ignore_errors=True)


class Evaluator:
    def __init__(self, blobs: Blobs, clients: Clients, cache: Cache, catalog: Catalog) -> None:
        self.blobs, self.clients, self.cache, self.catalog = blobs, clients, cache, catalog

    async def ask(self, version: ModelVersion, champion: Champion) -> EvaluationInputs:
        """Ask the peers. Raises NotFound while one does not have what the version names, Unavailable while one is down."""
        gate = await self.clients.gate(version.model)
        snapshot = await self.clients.snapshot(version.lineage)
        if champion.version in (0, version.version):
            return EvaluationInputs(version, champion, gate, snapshot)
        try:
            rival = await self.clients.version(version.model, champion.version)
            same = rival.lineage.snapshot_id == snapshot.snapshot_id
            rival_snapshot = snapshot if same else await self.clients.snapshot(rival.lineage)
        except (NotFound, InvalidArgument) as error:
            # What became of the champion's data must not keep its challenger from a report.
            return EvaluationInputs(version, champion, gate, snapshot, rival_missing=str(error))
        return EvaluationInputs(version, champion, gate, snapshot, rival, rival_snapshot)

    async def evaluate(self, inputs: EvaluationInputs) -> EvaluationReport:
        """The report on a version beside the present champion, not stored yet. Raises what the store raises, and bugs."""
        started = time.monotonic()
        report = report_on(inputs.version, inputs.champion)
        try:
            figures = await self._figures(inputs)
        except CannotEvaluate as error:
            return add_error(report, str(error), started)
        add_figures(report, figures, inputs.gate, started)
        metrics.SECONDS.observe(time.monotonic() - started)
        metrics.LEFT_OUT.inc(figures.rows_left_out)
        return report

    async def _figures(self, inputs: EvaluationInputs) -> Figures:
        train = await read_split(self.blobs, inputs.snapshot, "train")
        test = await read_split(self.blobs, inputs.snapshot, "test")
        folder = await self.cache.fetch(inputs.version.artifact.digest)
        rival = await self._rival(inputs)
        figures = await in_background(lambda: measure(folder, train, test, rival, self.catalog))
        await in_background(self.cache.prune)
        return figures

    async def _rival(self, inputs: EvaluationInputs) -> Rival | None:
        """The champion's artifact and the rows that it has seen, or why they cannot be had."""
        if inputs.rival_missing:
            return Rival(inputs.champion.version, missing=inputs.rival_missing)
        if not inputs.rival or not inputs.rival_snapshot:
            return None
        seen: list[Row] = []
        try:
            if inputs.rival_snapshot.snapshot_id != inputs.snapshot.snapshot_id:
                seen += await read_split(self.blobs, inputs.rival_snapshot, "train")
            return Rival(inputs.rival.version, seen, await self.cache.fetch(inputs.rival.artifact.digest))
        except (NotFound, InvalidArgument) as error:
            log.warning("champion not to be had", extra={"version": inputs.rival.version, "error": str(error)})
            return Rival(inputs.rival.version, seen, missing=str(error))
