"""The registry counts what it has done itself, once."""

from prometheus_client import REGISTRY

from millstream.registry.v1 import registry_service_pb2 as rpc
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.registry import Evaluator, Trainer, applied


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"millstream_registry_{name}_total", {"model": "toy", **labels}) or 0.0


async def test_a_version_is_counted_once_however_often_it_is_registered() -> None:
    replica, before = await applied(Trainer("run-1", "run-2"), Evaluator()), counted("versions_registered")
    for run in ("run-1", "run-2", "run-1"):
        await replica.register.reconcile(VersionKey(run))
    assert counted("versions_registered") == before + 2


async def test_moves_are_counted_by_their_action_and_a_repeated_request_is_not() -> None:
    evaluator = Evaluator()
    replica = await applied(Trainer("run-1", "run-2"), evaluator)
    actions = ("promoted_automatically", "promoted", "rolled_back", "released")
    before = [counted("alias_moves", action=action) for action in actions]
    for run in ("run-1", "run-2"):
        await replica.register.reconcile(VersionKey(run))
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    await replica.promote.reconcile(PromotionKey("toy"))
    for _ in range(2):
        promote = rpc.PromoteModelVersionRequest(model="toy", version=2, override="x", request_id="promote")
        await replica.service.PromoteModelVersion(promote)
    for _ in range(2):
        await replica.service.RollbackAlias(rpc.RollbackAliasRequest(model="toy", reason="x", request_id="back"))
    for _ in range(2):
        await replica.service.ReleaseAlias(rpc.ReleaseAliasRequest(model="toy", reason="x"))
    after = [counted("alias_moves", action=action) for action in actions]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1]
