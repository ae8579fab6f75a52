"""RegistryService: models, versions and aliases."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion
from millstream.states import word_of
from recipekit.catalog import Catalog
from servicekit.blobs.artifacts import file_key, prefix_of
from servicekit.facts.ledger import Entry, intact
from servicekit.ids import check_request_id
from servicekit.limits import SENT_BYTES, check_reason
from servicekit.paging import message_page, trimmed
from servicekit.rpc.caller import actor, check_operator
from services.registry.clients import all_reports
from services.registry.metrics import MOVES
from services.registry.rules import (
    damaged,
    deciding_report,
    gate_of,
    objections,
    present_gate,
    rollback_target,
    why_not_compared,
)
from services.registry.store import Store, to_alias
from services.registry.validation import check_spec

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub


class RegistryService:
    """Answers the RPCs of RegistryService."""

    def __init__(self, store: Store, evaluator: "EvaluationServiceAsyncStub", catalog: Catalog) -> None:
        self.store, self.evaluator, self.catalog = store, evaluator, catalog

    async def ApplyModel(self, request: rpc.ApplyModelRequest) -> rpc.ApplyModelResponse:
        """Declare a model, or change its spec; an equal spec changes nothing. Raises InvalidArgument or Conflict."""
        spec = request.spec
        check_spec(spec, self.catalog)
        ledger = self.store.specs(spec.model)

        async def change(newest: Entry[ModelSpec] | None) -> ModelSpec | None:
            return None if newest and newest.message == spec else spec

        made = await ledger.append(
            change,
            request_id=check_request_id(request.request_id),
            actor=actor(),
            expected=_expected_number(request.etag),
        )
        _check_same_request(made.request_id == request.request_id, made.message == spec)
        return rpc.ApplyModelResponse(model=await self.store.model(spec.model))

    async def GetModel(self, request: rpc.GetModelRequest) -> rpc.GetModelResponse:
        """One model, with its present gate where both fit. Raises NotFound."""
        model = await self.store.shown_model(request.model)
        gate = Model(present_gate=gate_of(model.spec, self.catalog))
        if model.ByteSize() + gate.ByteSize() <= SENT_BYTES:
            model.MergeFrom(gate)
        return rpc.GetModelResponse(model=trimmed(model))

    async def ListModels(self, request: rpc.ListModelsRequest) -> rpc.ListModelsResponse:
        """Models by name, page by page."""
        models, token = await message_page(await self.store.names(), request, str, self.store.listed_model)
        return rpc.ListModelsResponse(models=models, next_page_token=token)

    async def GetModelVersion(self, request: rpc.GetModelVersionRequest) -> rpc.GetModelVersionResponse:
        """One version, by number or by alias. Raises NotFound."""
        return rpc.GetModelVersionResponse(
            model_version=trimmed(await self._version(request.model, request.version, request.alias))
        )

    async def ListModelVersions(self, request: rpc.ListModelVersionsRequest) -> rpc.ListModelVersionsResponse:
        """A model's versions, newest first, page by page. Raises NotFound."""
        listed = partial(self.store.listed_version, request.model)
        numbers = await self.store.version_numbers(request.model, request.after_version)
        shown, token = await message_page(numbers, request, str, listed)
        return rpc.ListModelVersionsResponse(model_versions=shown, next_page_token=token)

    async def GetAlias(self, request: rpc.GetAliasRequest) -> rpc.GetAliasResponse:
        """The version that an alias names, and since when. Raises NotFound."""
        entry = await self.store.newest_alias_entry(request.model, request.alias)
        if not entry:
            raise _names_nothing(request.model, request.alias)
        return rpc.GetAliasResponse(entry=trimmed(entry))

    async def ListAliases(self, request: rpc.ListAliasesRequest) -> rpc.ListAliasesResponse:
        """The newest move of each alias, by name, page by page. Raises NotFound."""
        names, newest = await self.store.aliases(request.model), partial(self.store.listed_alias, request.model)
        shown, token = await message_page(names, request, str, newest)
        return rpc.ListAliasesResponse(entries=shown, next_page_token=token)

    async def ListAliasEntries(self, request: rpc.ListAliasEntriesRequest) -> rpc.ListAliasEntriesResponse:
        """Every move of an alias, newest first, page by page. Raises NotFound."""
        numbers = await self.store.alias_numbers(request.model, request.alias, request.after_number)
        listed = partial(self.store.listed_alias_entry, request.model, request.alias)
        shown, token = await message_page(numbers, request, str, listed)
        return rpc.ListAliasEntriesResponse(entries=shown, next_page_token=token)

    async def AliasAt(self, request: rpc.AliasAtRequest) -> rpc.AliasAtResponse:
        """The entry that held at a given time. Raises NotFound."""
        if not request.HasField("time"):
            raise InvalidArgument("time is missing: set the time to look up", field="time")
        entry = await self.store.alias_entry_at(request.model, request.alias, request.time.ToNanoseconds())
        if not entry:
            raise NotFound(f"{request.alias or CHAMPION} of {request.model} named no version then", model=request.model)
        return rpc.AliasAtResponse(entry=trimmed(entry))

    async def PromoteModelVersion(self, request: rpc.PromoteModelVersionRequest) -> rpc.PromoteModelVersionResponse:
        """Move the alias by hand, which puts it on hold. Raises NotFound, FailedPrecondition or Conflict.

        An override passes over the gate, so it needs the role operator: else PermissionDenied.
        """
        if request.override:
            check_operator("an override of the gate")
        await self.store.version(request.model, request.version)
        report_id, compared = await self._passing_report(request)
        expected = _expected_number(request.etag)
        entry = AliasEntry(
            model=request.model,
            alias=request.alias or CHAMPION,
            version=request.version,
            action=AliasEntry.ACTION_PROMOTED,
            hold=True,
            reason=check_reason(request.reason),
            override=check_reason(request.override, "override"),
            report_id=report_id,
        )
        made = await self._append(request, entry, compared if expected is None else expected)
        return rpc.PromoteModelVersionResponse(entry=to_alias(made))

    async def RollbackAlias(self, request: rpc.RollbackAliasRequest) -> rpc.RollbackAliasResponse:
        """Move the alias to an earlier version, which puts it on hold. Raises FailedPrecondition."""
        check_reason(request.reason)
        await self.store.check_exists(request.model)

        async def back(newest: Entry[AliasEntry] | None) -> AliasEntry:
            moves = await self.store.alias(request.model, request.alias).entries(newest.number) if newest else []
            return AliasEntry(
                model=request.model,
                alias=request.alias or CHAMPION,
                version=rollback_target([entry.message for entry in moves], request.version),
                action=AliasEntry.ACTION_ROLLED_BACK,
                hold=True,
                reason=request.reason,
            )

        made = await self._append(request, back)
        same = made.message.reason == request.reason and request.version in (0, made.message.version)
        _check_same_request(True, same and made.message.action == AliasEntry.ACTION_ROLLED_BACK)
        return rpc.RollbackAliasResponse(entry=to_alias(made))

    async def ReleaseAlias(self, request: rpc.ReleaseAliasRequest) -> rpc.ReleaseAliasResponse:
        """End the hold, so that automatic promotion may move the alias again. Raises NotFound."""
        check_reason(request.reason)
        await self.store.check_exists(request.model)

        async def release(newest: Entry[AliasEntry] | None) -> AliasEntry | None:
            if not newest:
                raise _names_nothing(request.model, request.alias)
            if not newest.message.hold:
                return None
            return AliasEntry(
                model=request.model,
                alias=newest.message.alias,
                version=newest.message.version,
                action=AliasEntry.ACTION_RELEASED,
                reason=request.reason,
            )

        made = await self._append(request, release)
        same = made.message.action == AliasEntry.ACTION_RELEASED and made.message.reason == request.reason
        _check_same_request(made.request_id == request.request_id, same)
        return rpc.ReleaseAliasResponse(entry=to_alias(made))

    async def DownloadArtifact(
        self, request: rpc.DownloadArtifactRequest
    ) -> AsyncIterator[rpc.DownloadArtifactResponse]:
        """The files of a version's artifact, in chunks. Raises NotFound."""
        version = await self._version(request.model, request.version, request.alias)
        for file in version.artifact.files:
            async for chunk in self.store.blobs.read(file_key(prefix_of(version.artifact.digest), file.path)):
                yield rpc.DownloadArtifactResponse(path=file.path, chunk=chunk)

    async def _append(
        self,
        request: rpc.PromoteModelVersionRequest | rpc.RollbackAliasRequest | rpc.ReleaseAliasRequest,
        move: AliasEntry | Callable[[Entry[AliasEntry] | None], Awaitable[AliasEntry | None]],
        expected: int | None = None,
    ) -> Entry[AliasEntry]:
        """Append to the alias's ledger as its append() does, and count an entry that is new."""
        ledger, request_id = self.store.alias(request.model, request.alias), check_request_id(request.request_id)
        known = await ledger.count()
        made = await ledger.append(move, request_id=request_id, actor=actor(), expected=expected)
        if made.number > known:
            MOVES.labels(request.model, word_of(AliasEntry.Action, made.message.action)).inc()
        return made

    async def _version(self, model: str, number: int, alias: str) -> ModelVersion:
        if bool(number) == bool(alias):
            raise InvalidArgument("set either version or alias", field="version")
        if alias:
            entry = await self.store.newest_alias_entry(model, alias)
            if not entry:
                raise _names_nothing(model, alias)
            number = entry.version
        return await self.store.version(model, number)

    async def _passing_report(self, request: rpc.PromoteModelVersionRequest) -> tuple[str, int | None]:
        """The id of the passing report that allows the promotion, "" with an override, and the number of the champion's
        entry that must still be the newest, 0 being none; None if any may be. Raises FailedPrecondition.
        """
        if request.override:
            return "", None
        ledger = self.store.alias(request.model, request.alias)
        if number := (await ledger.index()).number_of(request.request_id):
            # A repeated request gets the same answer, with the same report.
            return intact(await ledger.entry(number)).message.report_id, None
        moves = await self.store.alias_entries(request.model, CHAMPION)
        reports = await all_reports(self.evaluator, request.model, request.version)
        alias = request.alias or CHAMPION
        # Read last, so that a gate that was just applied holds.
        spec = (await self.store.model(request.model)).spec
        report = deciding_report(reports, moves, request.version, alias)
        if against := damaged(reports):
            report = None
        elif report:
            against = objections(report, present_gate(spec, self.catalog, report))
        elif reports:
            champions = await all_reports(self.evaluator, request.model, moves[-1].version)
            against = [why_not_compared(moves, reports, champions)]
        else:
            against = ["it has no evaluation report yet"]
        if report is None or against:
            raise FailedPrecondition(
                f"{request.model} version {request.version} does not pass the model's gate: {'; '.join(against)}. Read "
                f"`millstream reports list {request.model}`, or set override to your reason",
                model=request.model,
            )
        return report.report_id, len(moves) if alias == CHAMPION else None


def _check_same_request(repeated: bool, same: bool) -> None:
    """Refuse a repeated request_id whose ledger entry was made for another request. Raises InvalidArgument."""
    if repeated and not same:
        raise InvalidArgument("request_id was used before for something else: send a new one", field="request_id")


def _names_nothing(model: str, alias: str) -> NotFound:
    return NotFound(f"{alias or CHAMPION} of {model} names no version yet", model=model, alias=alias or CHAMPION)


def _expected_number(etag: str) -> int | None:
    """The entry that must be the newest, None without an etag. Raises InvalidArgument."""
    if not etag:
        return None
    if not re.fullmatch("[0-9]{1,10}", etag):
        raise InvalidArgument(
            f"etag {etag[:20]!r} is not the number of an entry: send the etag that you read", field="etag"
        )
    return int(etag)
