"""Troubles that pass say nothing against a version: they are waited for, and its report is then made."""

from pathlib import Path
from typing import Any

import pytest

from millstream.errors import MillstreamError, Overloaded, PermissionDenied, Unauthenticated
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from tests.worlds.evaluator import MODEL, Replica, World, until

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def reported(replica: Replica) -> EvaluationReport:
    """The only report, once it is there."""

    async def there() -> bool:
        return bool(await replica.store.reports(MODEL))

    await until(there)
    (report,) = await replica.store.reports(MODEL)
    return report


@pytest.mark.parametrize(
    "error", [Unauthenticated("t"), PermissionDenied("r"), Overloaded("o")], ids=lambda e: e.reason
)
@pytest.mark.parametrize("peer", ["registry.GetModelVersion", "dataprep.GetSnapshot"])
async def test_a_peer_that_refuses_this_services_token_for_a_while_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, peer: str, error: MillstreamError
) -> None:
    await world.version()
    name, _, method = peer.partition(".")
    service = getattr(world, name)
    original, refusals = getattr(service, method), [error] * 3

    async def refuses_at_first(request: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await original(request)

    monkeypatch.setattr(service, method, refuses_at_first)
    replica = world.replica()
    async with replica.running():
        assert (await reported(replica)).status == PASSED
    assert not refusals
