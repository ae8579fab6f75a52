"""What the evaluator reads from registry and dataprep."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import LRUCache

from millstream.client.aio.pages import pages
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.dataset_service_pb2 import GetSnapshotRequest
from millstream.defaults import CHAMPION
from millstream.errors import DataLoss, InvalidArgument, NotFound
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, ModelVersion
from millstream.registry.v1.registry_service_pb2 import (
    GetModelRequest,
    GetModelVersionRequest,
    ListAliasEntriesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
)
from millstream.training.v1.lineage_pb2 import Lineage
from services.evaluator.due import ChampionAlias, champion_of

if TYPE_CHECKING:
    from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
MODELS = 1024
"""Models whose moves of champion are kept."""


@dataclass(frozen=True)
class Clients:
    """The two services that the evaluator calls. Every method may raise Unavailable."""

    registry: "RegistryServiceAsyncStub"
    dataprep: "DatasetServiceAsyncStub"
    _moves: MutableMapping[str, dict[int, int]] = field(default_factory=lambda: LRUCache(MODELS))
    """By model: the version of each entry of the alias champion, which never changes."""

    async def models(self) -> AsyncIterator[str]:
        """The names of all models."""
        async for page in pages(self.registry.ListModels, ListModelsRequest()):
            for model in page.models:
                yield model.name

    async def versions(self, model: str, after: int = 0) -> AsyncIterator[int | DataLoss]:
        """The numbers of a model's versions above `after`, newest first; in place of each that is damaged, the error."""
        request = ListModelVersionsRequest(model=model, after_version=after)
        async for page in pages(self.registry.ListModelVersions, request):
            for version in page.model_versions:
                yield DataLoss(version.problem) if version.problem else version.version

    async def version(self, model: str, version: int) -> ModelVersion:
        """Raises NotFound."""
        response = await self.registry.GetModelVersion(GetModelVersionRequest(model=model, version=version))
        return response.model_version

    async def champion(self, model: str) -> ChampionAlias:
        """The alias of a model that is known to exist; one that never named a version has no entries. Raises DataLoss."""
        known = self._moves.get(model, {})
        request = ListAliasEntriesRequest(model=model, alias=CHAMPION, after_number=max(known, default=0))
        entries: list[AliasEntry] = []
        with suppress(NotFound):
            async for page in pages(self.registry.ListAliasEntries, request):
                entries += page.entries
        if problems := [entry.problem for entry in entries if entry.problem]:
            # Without that entry another version would seem to be champion, or this one never to have been it.
            raise DataLoss(problems[0])
        moves = known | {entry.number: entry.version for entry in entries}
        self._moves[model] = moves
        return champion_of(moves)

    async def gate(self, model: str) -> list[GateRule]:
        """The rules that the model declares; empty: the recipe's own apply."""
        response = await self.registry.GetModel(GetModelRequest(model=model))
        return list(response.model.spec.gate)

    async def snapshot(self, lineage: Lineage) -> Snapshot:
        """The snapshot that a version was trained on. Raises NotFound, or InvalidArgument when the dataset was replaced."""
        request = GetSnapshotRequest(dataset=lineage.dataset, number=lineage.dataset_number)
        snapshot = (await self.dataprep.GetSnapshot(request)).snapshot
        if snapshot.snapshot_id != lineage.snapshot_id:
            raise InvalidArgument(
                f"snapshot {lineage.dataset_number} of {lineage.dataset} is {snapshot.snapshot_id}, but the version was "
                f"trained on {lineage.snapshot_id}: the dataset was replaced, so train a version on what it holds now"
            )
        return snapshot
