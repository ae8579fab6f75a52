"""RegistryService: message in, message out."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion
from recipekit.catalog import Catalog
from servicekit.blobs.artifacts import file_key, prefix_of
from servicekit.facts.ledger import Entry
from servicekit.ids import check_request_id
from servicekit.paging import page
from servicekit.rpc.interceptor import actor
from services.registry.clients import all_reports
from services.registry.metrics import MOVES
from services.registry.rules import rollback_target
from services.registry.store import Store, to_alias, to_model, to_version
from services.registry.validation import check_spec

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub


class RegistryService:
    def __init__(self, store: Store, evaluator: "EvaluationServiceAsyncStub", catalog: Catalog) -> None:
        self.store, self.evaluator, self.catalog = store, evaluator, catalog

    async def ApplyModel(self, request: rpc.ApplyModelRequest) -> rpc.ApplyModelResponse:
        spec = request.spec
        check_spec(spec, self.catalog)
        ledger = self.store.specs(spec.model)

        def change(known: Sequence[Entry[ModelSpec]]) -> ModelSpec | None:
            return None if known and known[-1].message == spec else spec

        made = await ledger.append(
            change, request_id=check_request_id(request.request_id), actor=actor(), expected=_number(request.etag)
        )
        _check_same(made.request_id == request.request_id, made.message == spec)
        return rpc.ApplyModelResponse(model=to_model(await ledger.entries()))

    async def GetModel(self, request: rpc.GetModelRequest) -> rpc.GetModelResponse:
        return rpc.GetModelResponse(model=await self.store.model(request.model))

    async def ListModels(self, request: rpc.ListModelsRequest) -> rpc.ListModelsResponse:
        names, token = page(await self.store.models(), request.page_size, request.page_token, str)
        models: list[Model] = [await self.store.model(name) for name in names]
        return rpc.ListModelsResponse(models=models, next_page_token=token)

    async def GetModelVersion(self, request: rpc.GetModelVersionRequest) -> rpc.GetModelVersionResponse:
        return rpc.GetModelVersionResponse(
            model_version=await self._version(request.model, request.version, request.alias)
        )

    async def ListModelVersions(self, request: rpc.ListModelVersionsRequest) -> rpc.ListModelVersionsResponse:
        await self.store.model(request.model)
        entries = await self.store.versions(request.model).entries()
        shown, token = page(entries[::-1], request.page_size, request.page_token, lambda entry: str(entry.number))
        return rpc.ListModelVersionsResponse(model_versions=map(to_version, shown), next_page_token=token)

    async def GetAlias(self, request: rpc.GetAliasRequest) -> rpc.GetAliasResponse:
        entries = await self.store.alias_entries(request.model, request.alias)
        if not entries:
            raise _unnamed(request.model, request.alias)
        return rpc.GetAliasResponse(entry=entries[-1])

    async def ListAliasEntries(self, request: rpc.ListAliasEntriesRequest) -> rpc.ListAliasEntriesResponse:
        entries = await self.store.alias_entries(request.model, request.alias)
        shown, token = page(entries[::-1], request.page_size, request.page_token, lambda entry: str(entry.number))
        return rpc.ListAliasEntriesResponse(entries=shown, next_page_token=token)

    async def AliasAt(self, request: rpc.AliasAtRequest) -> rpc.AliasAtResponse:
        if not request.HasField("time"):
            raise InvalidArgument("time: say at which time", field="time")
        entries = await self.store.alias_entries(request.model, request.alias)
        at = request.time.ToNanoseconds()
        before = [entry for entry in entries if entry.time.ToNanoseconds() <= at]
        if not before:
            raise NotFound(f"{request.alias or CHAMPION} of {request.model} named no version then", model=request.model)
        return rpc.AliasAtResponse(entry=before[-1])

    async def PromoteModelVersion(self, request: rpc.PromoteModelVersionRequest) -> rpc.PromoteModelVersionResponse:
        await self.store.version(request.model, request.version)
        entry = AliasEntry(
            model=request.model,
            alias=request.alias or CHAMPION,
            version=request.version,
            action=AliasEntry.ACTION_PROMOTED,
            hold=True,
            reason=request.reason,
            override=request.override,
            report_id=await self._evidence(request),
        )
        ledger = self.store.alias(request.model, request.alias)
        made = await ledger.append(
            entry, request_id=check_request_id(request.request_id), actor=actor(), expected=_number(request.etag)
        )
        MOVES.labels(request.model, "promoted").inc()
        return rpc.PromoteModelVersionResponse(entry=to_alias(made))

    async def RollbackAlias(self, request: rpc.RollbackAliasRequest) -> rpc.RollbackAliasResponse:
        await self.store.model(request.model)

        def back(known: Sequence[Entry[AliasEntry]]) -> AliasEntry:
            return AliasEntry(
                model=request.model,
                alias=request.alias or CHAMPION,
                version=rollback_target([entry.message for entry in known], request.version),
                action=AliasEntry.ACTION_ROLLED_BACK,
                hold=True,
                reason=request.reason,
            )

        ledger = self.store.alias(request.model, request.alias)
        made = await ledger.append(back, request_id=check_request_id(request.request_id), actor=actor())
        same = made.message.reason == request.reason and request.version in (0, made.message.version)
        _check_same(True, same and made.message.action == AliasEntry.ACTION_ROLLED_BACK)
        MOVES.labels(request.model, "rolled_back").inc()
        return rpc.RollbackAliasResponse(entry=to_alias(made))

    async def ReleaseAlias(self, request: rpc.ReleaseAliasRequest) -> rpc.ReleaseAliasResponse:
        await self.store.model(request.model)

        def release(known: Sequence[Entry[AliasEntry]]) -> AliasEntry | None:
            if not known:
                raise _unnamed(request.model, request.alias)
            newest = known[-1].message
            if not newest.hold:
                return None
            return AliasEntry(
                model=request.model,
                alias=newest.alias,
                version=newest.version,
                action=AliasEntry.ACTION_RELEASED,
                reason=request.reason,
            )

        ledger = self.store.alias(request.model, request.alias)
        made = await ledger.append(release, request_id=check_request_id(request.request_id), actor=actor())
        same = made.message.action == AliasEntry.ACTION_RELEASED and made.message.reason == request.reason
        _check_same(made.request_id == request.request_id, same)
        return rpc.ReleaseAliasResponse(entry=to_alias(made))

    async def DownloadArtifact(
        self, request: rpc.DownloadArtifactRequest
    ) -> AsyncIterator[rpc.DownloadArtifactResponse]:
        version = await self._version(request.model, request.version, request.alias)
        for file in version.artifact.files:
            async for chunk in self.store.blobs.read(file_key(prefix_of(version.artifact.digest), file.path)):
                yield rpc.DownloadArtifactResponse(path=file.path, chunk=chunk)

    async def _version(self, model: str, number: int, alias: str) -> ModelVersion:
        if bool(number) == bool(alias):
            raise InvalidArgument("give either a version or an alias", field="version")
        if alias:
            entries = await self.store.alias_entries(model, alias)
            if not entries:
                raise _unnamed(model, alias)
            number = entries[-1].version
        return await self.store.version(model, number)

    async def _evidence(self, request: rpc.PromoteModelVersionRequest) -> str:
        """The id of a passing report; none is asked for where the caller overrides it. Raises FailedPrecondition."""
        if request.override:
            return ""
        for entry in await self.store.alias(request.model, request.alias).entries():
            if entry.request_id == request.request_id:
                # Asked again, it rests on what it rested on the first time.
                return entry.message.report_id
        for report in await all_reports(self.evaluator, request.model, request.version):
            if report.status == EvaluationReport.STATUS_PASSED:
                return report.report_id
        raise FailedPrecondition(
            f"{request.model} version {request.version} has no passing evaluation report: look at its reports, or give "
            "an override with your reason",
            model=request.model,
        )


def _check_same(asked_before: bool, same: bool) -> None:
    """A request_id that stands in the ledger must stand there for the same request. Raises InvalidArgument."""
    if asked_before and not same:
        raise InvalidArgument("request_id was used before for something else: send a new one", field="request_id")


def _unnamed(model: str, alias: str) -> NotFound:
    return NotFound(f"{alias or CHAMPION} of {model} names no version yet", model=model, alias=alias or CHAMPION)


def _number(etag: str) -> int | None:
    if not etag:
        return None
    if not etag.isdigit():
        raise InvalidArgument(f"etag {etag!r} is no number: send the one that you read", field="etag")
    return int(etag)
