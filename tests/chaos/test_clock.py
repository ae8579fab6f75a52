"""A clock jump of one service, by every function with which Python reads the time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.target import CLOCK

PRINT_CLOCKS = """
import time, datetime
import google.protobuf.timestamp_pb2 as pb
stamp = pb.Timestamp(); stamp.GetCurrentTime()
now = datetime.datetime.now(datetime.UTC)
assert isinstance(datetime.datetime.max, datetime.datetime) and now > datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
print(time.time(), time.time_ns() / 1e9, now.timestamp(), stamp.ToSeconds(), time.monotonic())
"""


def clocks(folder: Path, service: str) -> list[float]:
    """Each clock of a process of the service, in seconds; the monotonic one last."""
    environment = {**os.environ, "PYTHONPATH": str(CLOCK), "TEST_CLOCK": str(folder)}
    command = [sys.executable, "-c", PRINT_CLOCKS, "deploy.local.child", service]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    return [float(word) for word in run.stdout.split()]


@pytest.mark.parametrize(("name", "hurt"), [("registry", {"registry"}), ("all", {"registry", "trainer"})])
@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_only_the_wall_clocks_of_the_named_services_jump(
    name: str, hurt: set[str], seconds: int, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(str(seconds))
    for service in ("registry", "trainer"):
        *walls, monotonic = clocks(tmp_path, service)
        expected = time.time() + (seconds if service in hurt else 0)
        assert all(abs(wall - expected) < 60 for wall in walls)
        assert abs(monotonic - time.monotonic()) < 60
