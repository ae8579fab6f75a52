"""What the evaluator stores, and how long."""

from collections.abc import Sequence

from servicekit.blobs.port import Blobs, Listed
from servicekit.work.storage import ATTEMPTS_SECONDS, Kind, of_ended


def kinds(blobs: Blobs) -> list[Kind]:
    """Reports are kept; the attempts at one go once it stands."""

    async def of_reports(old: Sequence[Listed]) -> list[str]:
        return await of_ended(
            old, lambda key: "/".join(key.split("/")[:4]), lambda made: blobs.exists(f"{made}/report")
        )

    return [
        Kind("report-attempts", ("reports/*/*/*/attempts/**",), ATTEMPTS_SECONDS, of_reports),
        Kind("reports", ("reports/*/*/*/*", "evaluations/**", "ledger-blocks/evaluations/**")),
    ]
