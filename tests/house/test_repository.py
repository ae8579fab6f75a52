"""What the house promises about itself: what is published, what an image drags in, and how a folder looks."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400
OLD_NAME = "mill" + "race"
OLD_NAME_HOME = "docs/adr/0016-the-name.md"
HEAVY = {"torch", "transformers", "sentence-transformers", "safetensors", "scikit-learn", "matplotlib"}

EVERY_SERVICE = {"README.md", "__init__.py", "__main__.py", "settings.py", "storage.py"}
SERVICE_OR_DOORS = {"service.py", "doors"}
"""A service of one protocol has a service.py; one of several has a door for each."""
SOME_SERVICES = {"handlers.py", "store.py", "metrics.py", "reconcile.py"}
FEW = 8

EVERY_RECIPE = {"README.md", "spec.py", "data.py", "model.py", "train.py", "predict.py", "model.yaml", "sample.jsonl"}


def files() -> list[Path]:
    """Every file of the checkout, committed or about to be, as git sees it."""
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("this is no git checkout")
    return [HOUSE / name for name in listing.stdout.split("\0") if name and (HOUSE / name).is_file()]


def folders(of: str) -> list[Path]:
    """The packages in services/ or recipes/."""
    return sorted(file.parent for file in (HOUSE / of).glob("*/__init__.py"))


# --- what is published


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(build, cwd=HOUSE, check=True, capture_output=True, timeout=60)
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_millstream_alone(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"millstream"}
    assert "millstream/registry/v1/registry_service_pb2_grpc.py" in wheel.namelist()


def test_the_wheel_asks_for_grpc_and_protobuf_only(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    asked = [line.removeprefix("Requires-Dist: ") for line in wheel.read(metadata).decode().splitlines()]
    always = {line.split(">")[0] for line in asked if ">=" in line and "extra ==" not in line and " " not in line}
    assert always == {"googleapis-common-protos", "grpcio", "grpcio-status", "protobuf"}


# --- what an image drags in


def group_packages(group: str) -> set[str]:
    """Every package that `uv sync --only-group GROUP` may bring on any platform, walked through uv.lock."""
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in tomllib.loads((HOUSE / "uv.lock").read_text())["package"]:
        packages.setdefault(package["name"], []).append(package)
    (house,) = packages["millstream"]
    waiting = list(house["dev-dependencies"][group])
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (wanted["name"], tuple(wanted.get("extra", ())))
        if key in seen:
            continue
        seen.add(key)
        for package in packages[wanted["name"]]:
            waiting += package.get("dependencies", [])
            for extra in wanted.get("extra", ()):
                waiting += package.get("optional-dependencies", {}).get(extra, [])
    return {name for name, _ in seen}


@pytest.mark.parametrize("group", ["dataprep", "registry", "trainer", "lint", "unit"])
def test_these_groups_bring_no_torch(group: str) -> None:
    brought = group_packages(group)
    assert "protobuf" in brought
    assert not brought & HEAVY


@pytest.mark.parametrize("group", ["worker", "evaluator", "inference"])
def test_these_groups_bring_torch(group: str) -> None:
    assert "torch" in group_packages(group)


def test_the_lock_follows_pyproject() -> None:
    declared = tomllib.loads((HOUSE / "pyproject.toml").read_text())["dependency-groups"]
    (house,) = (p for p in tomllib.loads((HOUSE / "uv.lock").read_text())["package"] if p["name"] == "millstream")
    locked = {
        group: {entry["name"] + entry.get("specifier", "") for entry in entries}
        for group, entries in house["metadata"]["requires-dev"].items()
    }
    assert locked == {group: requirements(declared, group) for group in declared}, "run `uv lock`"


def requirements(groups: dict[str, list[Any]], group: str) -> set[str]:
    found: set[str] = set()
    for entry in groups[group]:
        found |= {entry} if isinstance(entry, str) else requirements(groups, entry["include-group"])
    return found


def test_every_service_has_its_group() -> None:
    groups = tomllib.loads((HOUSE / "pyproject.toml").read_text())["dependency-groups"]
    assert {folder.name for folder in folders("services")} <= set(groups)


# --- how a folder looks


@pytest.mark.parametrize("service", folders("services"), ids=lambda folder: folder.name)
def test_a_service_is_made_like_the_others(service: Path) -> None:
    found = {file.name for file in service.iterdir() if file.is_file()}
    assert found >= EVERY_SERVICE
    assert len(SERVICE_OR_DOORS & {path.name for path in service.iterdir()}) == 1
    ordinary = EVERY_SERVICE | SERVICE_OR_DOORS | SOME_SERVICES
    special = {name for name in found - ordinary if name.endswith(".py")}
    assert len(special) <= FEW, f"too many files of its own: {sorted(special)}"


@pytest.mark.parametrize("recipe", folders("recipes"), ids=lambda folder: folder.name)
def test_a_recipe_is_made_like_the_others(recipe: Path) -> None:
    assert {file.name for file in recipe.iterdir()} >= EVERY_RECIPE | {f"test_{recipe.name}.py"}


def test_recipes_holds_recipes_only() -> None:
    found = {path.name for path in (HOUSE / "recipes").iterdir() if path.name != "__pycache__"}
    assert found == {folder.name for folder in folders("recipes")} | {"__init__.py"}


def test_no_file_is_too_long() -> None:
    ours = {".py", ".proto", ".sh", ".md", ".yaml", ".yml", ".toml"}
    written = [f for f in files() if (f.suffix in ours or f.name == "Makefile") and "_pb2" not in f.name]
    lengths = {str(file.relative_to(HOUSE)): len(file.read_text().splitlines()) for file in written}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_the_old_name_stands_in_one_place() -> None:
    """The ADR that tells the change; nothing else reads it or writes it."""
    holding = [str(f.relative_to(HOUSE)) for f in files() if OLD_NAME.encode() in f.read_bytes().lower()]
    assert [name for name in holding if name != OLD_NAME_HOME] == []
    assert [f for f in files() if OLD_NAME in str(f.relative_to(HOUSE)).lower()] == []


def test_nothing_is_called_utils() -> None:
    assert [file for file in files() if file.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_the_licence_is_whole() -> None:
    text = (HOUSE / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
