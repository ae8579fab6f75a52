"""Models, their versions, and the aliases that name versions."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from millstream.client.aio.connection import Connection
from millstream.client.aio.pages import pages
from millstream.client.inputs import model_spec
from millstream.client.shared import PAGE, new_request_id
from millstream.client.transfer import ArtifactFolder
from millstream.defaults import CHAMPION
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion
from millstream.timestamps import timestamp


class Models(Connection):
    """Calls registry."""

    async def apply_model(self, spec: ModelSpec | Mapping[str, Any], *, etag: str = "", request_id: str = "") -> Model:
        """Declare a model or change it; an equal spec changes nothing. A mapping has the fields of registry.v1.ModelSpec.

        `etag` "" does not check; else Conflict is raised unless it is the model's present etag.
        Raises InvalidArgument that names the wrong field.
        """
        request = registry.ApplyModelRequest(
            spec=model_spec(spec), etag=etag, request_id=request_id or new_request_id()
        )
        return (await self._registry.ApplyModel(request)).model

    async def model(self, name: str) -> Model:
        """A model with its spec and etag. Raises NotFound."""
        return (await self._registry.GetModel(registry.GetModelRequest(model=name))).model

    async def models(self) -> AsyncIterator[Model]:
        """Every declared model, by name."""
        request = registry.ListModelsRequest(page_size=PAGE)
        async for page in pages(self._registry.ListModels, request):
            for found in page.models:
                yield found

    async def version(self, model: str, version: int = 0, *, alias: str = "") -> ModelVersion:
        """A version by its number or by an alias; with neither, the champion. Raises NotFound.

        Raises InvalidArgument when both are given.
        """
        alias = alias or ("" if version else CHAMPION)
        request = registry.GetModelVersionRequest(model=model, version=version, alias=alias)
        return (await self._registry.GetModelVersion(request)).model_version

    async def versions(self, model: str) -> AsyncIterator[ModelVersion]:
        """The model's versions, newest first."""
        request = registry.ListModelVersionsRequest(model=model, page_size=PAGE)
        async for page in pages(self._registry.ListModelVersions, request):
            for found in page.model_versions:
                yield found

    async def alias(self, model: str, alias: str = CHAMPION) -> AliasEntry:
        """The newest entry of an alias: the version that it names, since when and why. Raises NotFound."""
        return (await self._registry.GetAlias(registry.GetAliasRequest(model=model, alias=alias))).entry

    async def aliases(self, model: str) -> AsyncIterator[AliasEntry]:
        """The newest entry of each alias that ever named a version, by the alias's name. Raises NotFound."""
        request = registry.ListAliasesRequest(model=model, page_size=PAGE)
        async for page in pages(self._registry.ListAliases, request):
            for found in page.entries:
                yield found

    async def alias_history(self, model: str, alias: str = CHAMPION) -> AsyncIterator[AliasEntry]:
        """Every entry of an alias, newest first."""
        request = registry.ListAliasEntriesRequest(model=model, alias=alias, page_size=PAGE)
        async for page in pages(self._registry.ListAliasEntries, request):
            for found in page.entries:
                yield found

    async def alias_at(self, model: str, moment: datetime, alias: str = CHAMPION) -> AliasEntry:
        """The entry that was the newest at that moment; a datetime without a zone is local time.

        Raises NotFound where the alias named no version then.
        """
        time_then = timestamp(moment.timestamp())
        request = registry.AliasAtRequest(model=model, alias=alias, time=time_then)
        return (await self._registry.AliasAt(request)).entry

    async def promote(
        self,
        model: str,
        version: int,
        *,
        reason: str = "",
        override: str = "",
        alias: str = CHAMPION,
        etag: str = "",
        request_id: str = "",
    ) -> AliasEntry:
        """Move the alias to a version and hold it there: no automatic promotion until release().

        Raises FailedPrecondition without a report, beside the champion if it is replaced, that passes the model's present
        gate, unless `override` gives a reason, which is kept.
        Raises Conflict if another champion came meanwhile, or if `etag` is set and not the number of the newest entry.
        """
        request = registry.PromoteModelVersionRequest(
            model=model,
            alias=alias,
            version=version,
            reason=reason,
            override=override,
            etag=etag,
            request_id=request_id or new_request_id(),
        )
        return (await self._registry.PromoteModelVersion(request)).entry

    async def rollback(
        self, model: str, version: int = 0, *, reason: str = "", alias: str = CHAMPION, request_id: str = ""
    ) -> AliasEntry:
        """Move the alias back to a version that it once named (0: the one before), and hold it there.

        Raises FailedPrecondition where there is no such version.
        """
        request = registry.RollbackAliasRequest(
            model=model, alias=alias, version=version, reason=reason, request_id=request_id or new_request_id()
        )
        return (await self._registry.RollbackAlias(request)).entry

    async def release(
        self,
        model: str,
        *,
        reason: str = "",
        alias: str = CHAMPION,
        request_id: str = "",
    ) -> AliasEntry:
        """Let automatic promotion move the alias again. Raises NotFound for an alias without an entry."""
        request = registry.ReleaseAliasRequest(
            model=model, alias=alias, reason=reason, request_id=request_id or new_request_id()
        )
        return (await self._registry.ReleaseAlias(request)).entry

    async def download_artifact(
        self,
        model: str,
        folder: str | Path,
        *,
        version: int = 0,
        alias: str = "",
    ) -> ModelVersion:
        """Write the artifact's files of a version into a folder, which is made, and check their sha256 digests.

        With neither `version` nor `alias`, the champion's. Raises Unavailable for a file that is incomplete or damaged:
        download it again.
        """
        found = await self.version(model, version, alias=alias)
        request = registry.DownloadArtifactRequest(model=model, version=found.version)
        writer = ArtifactFolder(Path(folder), found.artifact)
        try:
            async for part in self._registry.DownloadArtifact(request):
                writer.write(part.path, part.chunk)
        finally:
            writer.close()
        writer.check()
        return found
