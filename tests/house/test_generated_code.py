"""tools/generate_protos.py notices every way in which the generated code can drift from protos/, and mends it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the group `proto` is not installed")

HOUSE = Path(__file__).resolve().parents[2]
MODULE = "millstream/registry/v1/model_pb2.py"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for tree in ("protos", "millstream", "tools"):
        shutil.copytree(HOUSE / tree, tmp_path / tree, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def generate(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/generate_protos.py", *arguments]
    return subprocess.run(command, cwd=house, capture_output=True, text=True, check=False, timeout=60)


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "\n")


def leave_over(file: Path) -> None:
    file.with_name("gone_pb2.py").write_text("")


def test_what_is_checked_in_is_fresh(house: Path) -> None:
    assert generate(house, "--check").returncode == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (edit, f"{MODULE} is stale"),
        (Path.unlink, f"{MODULE} is missing"),
        (leave_over, "millstream/registry/v1/gone_pb2.py belongs to no proto"),
    ],
    ids=["edited", "removed", "left over"],
)
def test_drift_is_told_and_mended(house: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(house / MODULE)
    check = generate(house, "--check")
    assert check.returncode == 1
    assert told in check.stderr and "make protos" in check.stderr
    assert generate(house).returncode == 0
    assert generate(house, "--check").returncode == 0


def test_a_broken_proto_is_refused_with_its_place(house: Path) -> None:
    (house / "protos/millstream/registry/v1/broken.proto").write_text('syntax = "proto3";\nmessage {')
    check = generate(house, "--check")
    assert check.returncode != 0
    assert "broken.proto:2" in check.stderr


def test_every_proto_names_its_go_package() -> None:
    """protoc-gen-go makes nothing of a file without one."""
    protos = sorted((HOUSE / "protos").rglob("*.proto"))
    assert protos
    for proto in protos:
        folder = proto.parent.relative_to(HOUSE / "protos")
        name = "".join(folder.parts[-2:])
        assert f'option go_package = "{folder};{name}";' in proto.read_text(encoding="utf-8"), proto
