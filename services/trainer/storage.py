"""What the trainer and its workers store, and how long."""

from collections.abc import Sequence

from servicekit.blobs.port import Listed
from servicekit.work.storage import ATTEMPTS_SECONDS, Kind, of_ended
from services.trainer.store import Store


def kinds(store: Store, keep_checkpoints_seconds: float, keep_logs_seconds: float) -> list[Kind]:
    """Requests, outcomes and artifacts are kept, and who claimed an attempt, how far it got and how it ended; the rest goes.

    A checkpoint of a run that has ended is of no use: nothing resumes from it.
    """

    async def of_runs(old: Sequence[Listed]) -> list[str]:
        return await of_ended(old, lambda key: key.split("/")[2], store.has_ended)

    async def of_checkpoints(old: Sequence[Listed]) -> list[str]:
        return await of_ended(old, lambda key: key.split("/")[1], store.has_ended)

    return [
        Kind("checkpoints", ("checkpoints/**",), keep_checkpoints_seconds, of_checkpoints),
        Kind("artifacts", ("artifacts/**",)),
        Kind("logs", ("runs/attempts/*/*/log/*",), keep_logs_seconds, of_runs),
        Kind("heartbeats", ("runs/attempts/*/*/heartbeat",), ATTEMPTS_SECONDS, of_runs),
        Kind("runs", ("runs/requests/*", "runs/outcomes/*", "runs/numerics/*", "runs/attempts/*/*/*")),
        Kind("run-index", ("runs/index/*", "ledger-blocks/runs/**")),
    ]
