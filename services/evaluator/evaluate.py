"""One evaluation: ask for everything that is needed, bring it here, measure, make the report."""

import logging
import time
from dataclasses import dataclass

from millrace.dataset.v1.dataset_pb2 import Snapshot
from millrace.errors import InvalidArgument, NotFound
from millrace.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millrace.registry.v1.model_pb2 import GateRule, ModelVersion
from recipekit.catalog import Catalog
from recipekit.spec import Row
from servicekit.blobs import Blobs
from servicekit.rows import read_split
from services.evaluator import metrics
from services.evaluator.background import in_background
from services.evaluator.cache import Cache
from services.evaluator.measure import CannotEvaluate, Figures, Rival, measure
from services.evaluator.owed import Champion
from services.evaluator.peers import Peers
from services.evaluator.report import add_error, add_figures, report_on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Brief:
    """All that peers have to say for one evaluation. `rival` is the champion if that is another version."""

    version: ModelVersion
    champion: Champion
    gate: list[GateRule]
    snapshot: Snapshot
    rival: ModelVersion | None = None
    rival_snapshot: Snapshot | None = None
    rival_missing: str = ""


class Evaluator:
    def __init__(self, blobs: Blobs, peers: Peers, cache: Cache, catalog: Catalog) -> None:
        self.blobs, self.peers, self.cache, self.catalog = blobs, peers, cache, catalog

    async def ask(self, version: ModelVersion, champion: Champion) -> Brief:
        """Ask the peers. Raises NotFound while one does not have what the version names, Unavailable while one is down."""
        gate = await self.peers.gate(version.model)
        snapshot = await self.peers.snapshot(version.lineage)
        if champion.version in (0, version.version):
            return Brief(version, champion, gate, snapshot)
        try:
            rival = await self.peers.version(version.model, champion.version)
            same = rival.lineage.snapshot_id == snapshot.snapshot_id
            rival_snapshot = snapshot if same else await self.peers.snapshot(rival.lineage)
        except (NotFound, InvalidArgument) as error:
            # What became of the champion's data must not keep its challenger from a report.
            return Brief(version, champion, gate, snapshot, rival_missing=str(error))
        return Brief(version, champion, gate, snapshot, rival, rival_snapshot)

    async def evaluate(self, brief: Brief) -> EvaluationReport:
        """The report on a version beside the present champion, not stored yet. Raises what the store raises, and bugs."""
        started = time.monotonic()
        report = report_on(brief.version, brief.champion)
        try:
            figures = await self._figures(brief)
        except CannotEvaluate as error:
            return add_error(report, str(error), started)
        add_figures(report, figures, brief.gate, started)
        metrics.SECONDS.observe(time.monotonic() - started)
        metrics.LEFT_OUT.inc(figures.rows_left_out)
        return report

    async def _figures(self, brief: Brief) -> Figures:
        train = await read_split(self.blobs, brief.snapshot, "train")
        test = await read_split(self.blobs, brief.snapshot, "test")
        folder = await self.cache.fetch(brief.version.artifact.digest)
        rival = await self._rival(brief)
        figures = await in_background(lambda: measure(folder, train, test, rival, self.catalog))
        await in_background(self.cache.prune)
        return figures

    async def _rival(self, brief: Brief) -> Rival | None:
        """The champion's artifact and the rows that it has seen, or why they cannot be had."""
        if brief.rival_missing:
            return Rival(brief.champion.version, missing=brief.rival_missing)
        if not brief.rival or not brief.rival_snapshot:
            return None
        seen: list[Row] = []
        try:
            if brief.rival_snapshot.snapshot_id != brief.snapshot.snapshot_id:
                seen += await read_split(self.blobs, brief.rival_snapshot, "train")
            return Rival(brief.rival.version, seen, await self.cache.fetch(brief.rival.artifact.digest))
        except (NotFound, InvalidArgument) as error:
            log.warning("champion not to be had", extra={"version": brief.rival.version, "error": str(error)})
            return Rival(brief.rival.version, seen, missing=str(error))
