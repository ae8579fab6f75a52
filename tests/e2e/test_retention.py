"""After a flow nothing is left of what it needed on the way, and an operator sees what is stored, by kind."""

import json
import os
from pathlib import Path
from typing import Any

from tests.e2e import invariants, scenario
from tests.worlds.platform import World, wait_until, world

WEEK = 8 * 86_400.0
KEPT = {"full_resync_seconds": "1", "keep_logs_seconds": "0"}


def stored(platform: World) -> dict[str, dict[str, Any]]:
    """What `millstream status --storage` reports, by kind; nothing while a service has not listed its objects yet."""
    services = json.loads(platform.cli("status", "--storage", "-o", "json"))
    return {kind["kind"]: kind for service in services for kind in service["storage"] if service.get("storage_time")}


def test_checkpoints_logs_and_uploads_are_gone_and_all_that_was_made_stays(tmp_path: Path) -> None:
    with world(tmp_path / "state", kind="local", settings=KEPT) as platform:
        scenario.run(platform, scenario.a_file(tmp_path))
        wait_until(
            lambda: not invariants.keys(platform.blobs(), "checkpoints/"), "no checkpoint of the run that has ended"
        )
        wait_until(lambda: stored(platform).get("logs", {}).get("objects") == "0", "no log of the run that has ended")
        assert stored(platform)["uploads"]["objects"] == "1", "it is kept for a week"
        for path in (platform.state / "blobs/uploads").iterdir():
            os.utime(path, (path.stat().st_atime - WEEK, path.stat().st_mtime - WEEK))
        wait_until(lambda: not invariants.keys(platform.blobs(), "uploads/"), "no upload of an import that has ended")
        with platform.client() as client:
            invariants.check(platform.blobs(), client, scenario.MODEL, scenario.DATASET)
            assert client.classify(scenario.MODEL, ["the mill was kind and sweet"]).classifications[0].label == "good"
