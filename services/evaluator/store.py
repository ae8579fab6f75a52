"""Reports ↔ objects: `reports/{model}/{version:010d}/{name}/report`, after `report.html` and `report.json` for people.

Requests for another report are a ledger for each version, `evaluations/{model}/{version:010d}/{n:010d}`.
`{name}` is the last part of the report's id, `{model}.{version}.{name}`.
"""

import re
from collections.abc import AsyncIterator, MutableMapping
from functools import partial

from cachetools import LRUCache
from google.protobuf.json_format import MessageToJson

from millstream.errors import DataLoss, InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.concurrency import in_order
from servicekit.facts.ledger import Ledger, read_entry
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.failpoints import failpoint
from servicekit.ids import check_name, hash_of

REPORTS = 256
"""Reports that are kept; one may have 100 kB."""
_REPORT_KEY = re.compile(r"reports/[^/]+/[0-9]+/[^/]+/report")
_REPORT_ID = re.compile(r"([^.]+)\.([1-9][0-9]{0,9})\.([0-9a-f]{16})")


def _completed(key: str, data: bytes) -> Fact:
    report = decode(EvaluationReport, data, key)
    event = EvaluationCompleted(
        report_id=report.report_id, model=report.model, version=report.version, status=report.status
    )
    return Fact(report.model, event)


def _requested(key: str, data: bytes) -> Fact:
    request = read_entry(data, EvaluationRequest, key).message
    return Fact(request.model, request)


FACTS: Announce = {"reports/*/*/*/report": _completed, "evaluations/*/*/*": _requested}


def report_id_of(model: str, version: int, snapshot_id: str, champion_version: int, request_number: int = 0) -> str:
    """Names a report by what it compares, so that two replicas cannot make two: `toy.3.0123456789abcdef`.

    A report that was requested has another name, so it is made although the same comparison was made before.
    """
    asked = (request_number,) if request_number else ()
    # Reports of before versions were compared by their labels, or on the rows of common ones only, have names with another
    # word or none, so a version can have one of each.
    return f"{model}.{version}.{hash_of(snapshot_id, champion_version, 'common labels', *asked)[:16]}"


def version_of(report_id: str) -> int:
    """The version that a report is on, by its id. Raises InvalidArgument for a malformed one."""
    return int(folder_of(report_id).split("/")[2])


def folder_of(report_id: str) -> str:
    """The folder of a report and its attempts. Raises InvalidArgument for a malformed id."""
    parts = _REPORT_ID.fullmatch(report_id)
    if not parts:
        text = f"report_id is {report_id!r}: use one that ListEvaluationReports names, like toy.3.0123456789abcdef"
        raise InvalidArgument(text, field="report_id")
    model, version, name = parts.groups()
    return f"reports/{check_name(model, 'report_id')}/{int(version):010d}/{name}"


class Store:
    """Reports never change, so each is read once."""

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._known: MutableMapping[str, EvaluationReport] = LRUCache(REPORTS)
        """By folder."""

    async def report(self, report_id: str) -> EvaluationReport:
        """Raises NotFound, DataLoss, or InvalidArgument for a malformed id."""
        return await self._read(folder_of(report_id))

    async def reported(self, model: str) -> dict[int, str]:
        """Of each version of a model with a report the key of one; it is a hint (see Blobs.list). Raises Unavailable."""
        keys = [listed.key async for listed in self.blobs.list(f"reports/{model}/")]
        return {int(key.split("/")[2]): key for key in keys if _REPORT_KEY.fullmatch(key)}

    async def stored_report(self, key: str) -> EvaluationReport:
        """The report of a key that reported() names. Raises NotFound, DataLoss, Unavailable."""
        return await self._read(key.removesuffix("/report"))

    async def reports(self, model: str, version: int = 0) -> list[EvaluationReport]:
        """All reports on a model, or on one version of it, in the order of listed()."""
        return [report async for report in self.listed(model, version)]

    async def listed(
        self, model: str, version: int = 0, *, above: int = 0, start: int = 0
    ) -> AsyncIterator[EvaluationReport]:
        """Reports on a model, on one version of it, or on its versions above one: of the newest version first, and of one
        version the newest first. It begins with the version `start`, 0: the newest, and reads on as its caller does.

        One that is damaged has its id, model and version, STATUS_UNSPECIFIED and the error.
        """
        names = [] if version else [name async for name in self.blobs.children(f"reports/{model}/")]
        versions = [version] if version else [int(name) for name in names if name.isdecimal()]
        wanted = sorted((one for one in versions if one > above and (not start or one <= start)), reverse=True)
        async for reports in in_order(partial(self._on_version, model), wanted):
            for report in reports:
                yield report

    async def _on_version(self, model: str, version: int) -> list[EvaluationReport]:
        # Attempts are deeper in the tree; a report whose page is stored may not be stored yet itself.
        keys = [listed.key async for listed in self.blobs.list(f"reports/{model}/{version:010d}/")]
        folders = [key.removesuffix("/report") for key in keys if _REPORT_KEY.fullmatch(key)]
        found = [report async for report in in_order(self._read_listed, folders) if report]
        return sorted(found, key=lambda report: (-report.create_time.ToNanoseconds(), report.report_id))

    def requests(self, model: str, version: int) -> Ledger[EvaluationRequest]:
        """The requests for another report on a version."""
        return Ledger(self.blobs, f"evaluations/{model}/{version:010d}", EvaluationRequest, self.outbox.put)

    async def request_number(self, model: str, version: int) -> int:
        """The number of the newest request for another report on a version; 0: there is none."""
        return await self.requests(model, version).count()

    async def request_numbers(self, model: str) -> dict[int, int]:
        """By version, for those that another report was requested on."""
        versions = [int(name) async for name in self.blobs.children(f"evaluations/{model}/")]
        return {version: await self.request_number(model, version) for version in versions}

    async def put(self, report: EvaluationReport) -> EvaluationReport:
        """Store a report and publish it; the first of its id wins and is returned."""
        folder = folder_of(report.report_id)
        await self._put_pages(report)
        made = await self.outbox.put(f"{folder}/report", report.SerializeToString(deterministic=True))
        first = await self._read(folder)
        if not made and first != report:
            await self._put_pages(first)
        return first

    async def _read(self, folder: str) -> EvaluationReport:
        if folder not in self._known:
            key = f"{folder}/report"
            self._known[folder] = decode(EvaluationReport, await self.blobs.get(key), key)
        return self._known[folder]

    async def _read_listed(self, folder: str) -> EvaluationReport | None:
        """None: it was listed, but its put was given up (see Blobs.list)."""
        try:
            return await self._read(folder)
        except NotFound:
            return None
        except DataLoss as error:
            _, model, version, name = folder.split("/")
            report_id = f"{model}.{int(version)}.{name}"
            return EvaluationReport(report_id=report_id, model=model, version=int(version), error=error.text)

    async def _put_pages(self, report: EvaluationReport) -> None:
        """The pages are drawn from the report alone, so of two writers of one report both write the same."""
        from services.evaluator.report.page import render

        folder = folder_of(report.report_id)
        await self.blobs.put(f"{folder}/report.html", render(report).encode())
        failpoint("evaluator.page-stored")
        text = MessageToJson(report, preserving_proto_field_name=True, ensure_ascii=False, indent=1)
        await self.blobs.put(f"{folder}/report.json", text.encode())
        failpoint("evaluator.json-stored")
