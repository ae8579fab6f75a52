"""One evaluation: ask for everything that is needed, bring it here, measure, make the report."""

import logging
import time
from dataclasses import dataclass

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.errors import InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import GateRule, ModelVersion
from recipekit.catalog import Catalog
from recipekit.spec import Row
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.parts import read_split
from servicekit.blobs.port import Blobs
from services.evaluator import metrics
from services.evaluator.clients import Clients
from services.evaluator.due import Champion
from services.evaluator.measure import CannotEvaluate, Figures, Rival, in_background, measure
from services.evaluator.report.build import add_error, add_figures, report_on

log = logging.getLogger(__name__)


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


class Evaluator:
    def __init__(
        self, blobs: Blobs, clients: Clients, cache: ArtifactCache, keep_artifacts: int, catalog: Catalog
    ) -> None:
        self.blobs, self.clients, self.cache, self.catalog = blobs, clients, cache, catalog
        self.keep_artifacts = keep_artifacts

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
        await in_background(lambda: self.cache.keep_newest(self.keep_artifacts))
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
