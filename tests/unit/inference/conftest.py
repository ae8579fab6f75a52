"""For tests that load artifacts: three that differ, and a world whose replicas end with the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.worlds.inference import World, trained


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return trained(tmp_path_factory)


@pytest.fixture
async def world(folders: list[Path], tmp_path: Path) -> AsyncIterator[World]:
    made = World(folders, tmp_path / "cache")
    yield made
    for replica in made.replicas:
        await replica.stop()
