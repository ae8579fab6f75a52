"""One evaluation: collect what it needs, measure, make the report."""

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
from services.evaluator.due import ChampionAlias
from services.evaluator.measure import CannotEvaluate, ChampionModel, Figures, in_background, measure
from services.evaluator.report.build import add_error, add_figures, report_on

log = logging.getLogger(__name__)


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


class Evaluator:
    """Collects what an evaluation needs, and measures."""

    def __init__(
        self, blobs: Blobs, clients: Clients, cache: ArtifactCache, keep_artifacts: int, catalog: Catalog
    ) -> None:
        self.blobs, self.clients, self.cache, self.catalog = blobs, clients, cache, catalog
        self.keep_artifacts = keep_artifacts

    async def collect(self, version: ModelVersion, champion: ChampionAlias) -> EvaluationInputs:
        """Ask registry and dataprep. Raises NotFound for what they do not have, Unavailable while one is down."""
        gate = await self.clients.gate(version.model)
        snapshot = await self.clients.snapshot(version.lineage)
        if champion.version in (0, version.version):
            return EvaluationInputs(version, champion, gate, snapshot)
        try:
            other = await self.clients.version(version.model, champion.version)
            same = other.lineage.snapshot_id == snapshot.snapshot_id
            other_snapshot = snapshot if same else await self.clients.snapshot(other.lineage)
        except (NotFound, InvalidArgument) as error:
            # A champion whose data is gone must not keep its challenger from a report.
            return EvaluationInputs(version, champion, gate, snapshot, champion_missing=str(error))
        return EvaluationInputs(version, champion, gate, snapshot, other, other_snapshot)

    async def evaluate(self, inputs: EvaluationInputs) -> EvaluationReport:
        """The report, not stored yet, that compares a version with the champion. Raises what the store raises, and bugs."""
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
        validation = await read_split(self.blobs, inputs.snapshot, "validation")
        test = await read_split(self.blobs, inputs.snapshot, "test")
        folder = await self.cache.fetch(inputs.version.artifact.digest)
        champion = await self._champion(inputs)
        figures = await in_background(lambda: measure(folder, train, validation, test, champion, self.catalog))
        await in_background(lambda: self.cache.keep_newest(self.keep_artifacts))
        return figures

    async def _champion(self, inputs: EvaluationInputs) -> ChampionModel | None:
        """The champion's artifact and the rows that it has seen, or why they cannot be read."""
        version, snapshot = inputs.champion_version, inputs.champion_snapshot
        if inputs.champion_missing:
            return ChampionModel(inputs.champion.version, missing=inputs.champion_missing)
        if not version or not snapshot:
            return None
        seen: list[Row] = []
        try:
            if snapshot.snapshot_id != inputs.snapshot.snapshot_id:
                for split in ("train", "validation"):
                    seen += await read_split(self.blobs, snapshot, split)
            return ChampionModel(version.version, seen, await self.cache.fetch(version.artifact.digest))
        except (NotFound, InvalidArgument) as error:
            log.warning("champion not readable", extra={"version": version.version, "error": str(error)})
            return ChampionModel(version.version, seen, missing=str(error))
