"""What generation owns, and how stale code is found; tests/house/test_generated_code.py keeps the code fresh."""

from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="the group `proto` is not installed")

from tools.generate_protos import differences, generated, proto_files, remove_empty_services


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A fresh tree and a repository that equals it."""
    for name in ("fresh", "house"):
        folder = tmp_path / name / "millstream/dataset/v1"
        folder.mkdir(parents=True)
        for file in ("__init__.py", "dataset_pb2.py"):
            (folder / file).write_text(file)
        (tmp_path / name / "millstream/client.py").write_text("by hand")
    return tmp_path / "fresh", tmp_path / "house"


def test_equal_trees_have_no_difference(trees: tuple[Path, Path]) -> None:
    assert differences(*trees) == []


def test_missing_stale_and_orphaned_files_are_named(trees: tuple[Path, Path]) -> None:
    fresh, house = trees
    (house / "millstream/dataset/v1/__init__.py").unlink()
    (house / "millstream/dataset/v1/dataset_pb2.py").write_text("old")
    (house / "millstream/dataset/v1/gone_pb2.py").write_text("")
    assert differences(fresh, house) == [
        "millstream/dataset/v1/__init__.py is missing",
        "millstream/dataset/v1/dataset_pb2.py is stale",
        "millstream/dataset/v1/gone_pb2.py belongs to no proto",
    ]


def test_files_written_by_hand_are_not_owned(trees: tuple[Path, Path]) -> None:
    assert Path("millstream/client.py") not in set(generated(trees[1]))


def test_grpc_modules_stay_only_where_a_proto_has_a_service(tmp_path: Path) -> None:
    folder = tmp_path / "millstream/dataset/v1"
    folder.mkdir(parents=True)
    for stem in ("dataset_service", "dataset"):
        (folder / f"{stem}_pb2_grpc.py").touch()
    remove_empty_services(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["dataset_service_pb2_grpc.py"]


def test_every_proto_is_found() -> None:
    assert {path.parent.parent.name for path in proto_files()} >= {"dataset", "training", "registry", "operations"}
