"""Each import contract of pyproject.toml is alive: planting what it forbids breaks that contract, and no other."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract["name"] for contract in CONFIG["contracts"]}

PRODUCT = ("millstream", "servicekit", "recipekit", "recipes", "services")
ROOMS = ("runtime", "work", "rpc", "facts", "bus", "blobs", "incidents", "ids")
"""One module or room of each layer of servicekit, highest first; rpc beside facts, bus beside blobs."""
BESIDE = {("rpc", "facts"), ("bus", "blobs")}


def layer_violations() -> Iterator[tuple[str, str, str]]:
    """An import upwards, or sideways, for each pair of layers that the contracts know."""
    inside = {"services": "services/registry", "recipes": "recipes/one", "servicekit": "servicekit/facts"}
    order = (("millstream",), ("recipekit", "servicekit"), ("recipes", "services"))
    for height, layer in enumerate(order):
        for below in layer:
            above = [name for higher in order[height + 1 :] for name in higher]
            beside = [name for name in layer if name != below]
            for name in (*above, *beside):
                folder, target = inside.get(below, below), inside.get(name, name).replace("/", ".")
                also = ["notebook"] if below in ("recipekit", "recipes") and name == "servicekit" else []
                yield "+".join(["layers", *also]), f"{folder}/planted.py", f"import {target}.planted"
    for name in PRODUCT:
        for outer in ("deploy", "tests", "bench", "tools"):
            yield "outermost", f"{inside.get(name, name)}/planted.py", f"import {outer}.planted"
    for outer in ("tests", "bench", "tools"):
        yield "outermost", "deploy/planted.py", f"import {outer}.planted"
    for height, room in enumerate(ROOMS):
        for higher in ROOMS[:height]:
            yield "rooms", file_of(room), f"import {module_of(higher)}"
    for left, right in BESIDE:
        yield "rooms", file_of(left), f"import {module_of(right)}"


def file_of(room: str) -> str:
    """Where to plant in a room; the ground floor's rooms are single modules."""
    return f"servicekit/{room}.py" if room in ("incidents", "ids") else f"servicekit/{room}/planted.py"


def module_of(room: str) -> str:
    return f"servicekit.{room}" if room in ("incidents", "ids") else f"servicekit.{room}.planted"


VIOLATIONS = [
    *sorted(set(layer_violations())),
    ("services", "services/registry/planted.py", "import services.dataprep.planted"),
    ("recipes", "recipes/one/planted.py", "import recipes.two.planted"),
    ("notebook", "recipes/one/planted.py", "import grpc"),
    ("notebook+clients", "recipekit/planted.py", "import kafka"),
    ("notebook+clients", "recipes/one/planted.py", "import minio"),
    ("notebook", "tests/recipes/planted.py", "import servicekit.ids"),
    ("torch", "servicekit/facts/planted.py", "import torch"),
    ("torch", "millstream/planted.py", "import torch"),
    ("torch", "deploy/planted.py", "import transformers"),
    ("torch", "recipekit/run.py", "import torch"),
    ("torch", "recipekit/catalog.py", "import safetensors"),
    ("torch", "recipekit/predictor.py", "def late() -> None:\n    import torch"),
    ("torch", "services/dataprep/planted.py", "import torch"),
    ("torch", "services/trainer/worker/planted.py", "import torch"),
    ("torch", "services/inference/engine/planted.py", "import torch"),
    ("torch", "tests/unit/trainer/planted.py", "import torch"),
    ("torch_reach", "services/evaluator/planted.py", "import recipekit.training.loop"),
    ("torch_reach", "recipekit/predictor.py", "import recipekit.training.numerics"),
    ("torch_reach", "tests/unit/recipekit/planted.py", "import recipekit.training.optim"),
    ("spec", "recipes/one/spec.py", "import torch.nn"),
    ("doors", "services/inference/doors/planted.py", "import services.inference.engine.batcher"),
    ("worker", "services/trainer/planted.py", "import services.trainer.worker.attempt"),
    ("worker", "tests/unit/trainer/planted.py", "import services.trainer.worker.attempt"),
    ("clients", "services/registry/planted.py", "import kafka"),
    ("clients", "deploy/planted.py", "import minio"),
    ("clients", "servicekit/bus/sqlite/planted.py", "import kafka"),
    ("clients", "servicekit/runtime/planted.py", "import minio"),
]
"""(contracts that break, file, line)"""
# Planted beside the sources: what the violations import, and one folder more wherever a rule needs two.
SCENERY = [
    "bench", "deploy", "tests", "tools", "recipekit", "millstream", "recipes/one", "recipes/two",
    "services/dataprep", "services/evaluator", "services/inference", "services/registry", "services/trainer",
    *(f"servicekit/{room}" for room in ROOMS[:6]),
]  # fmt: skip


def copy(house: Path) -> Path:
    """The sources of the house, with every package that the contracts name."""
    for root in CONFIG["root_packages"]:
        for source in (HOUSE / root).rglob("*.py"):
            target = house / source.relative_to(HOUSE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    for folder in SCENERY:
        for package in (house / folder, (house / folder).parent):
            package.mkdir(parents=True, exist_ok=True)
            if package != house and not (package / "__init__.py").exists():
                (package / "__init__.py").write_text("")
        (house / folder / "planted.py").write_text("")
    shutil.copy(HOUSE / "pyproject.toml", house)
    return house


def plant(house: Path, path: str, line: str) -> Path:
    file = copy(house) / path
    before = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    file.write_text(f"{before}\n{line}\n")
    return house


def broken_contracts(house: Path) -> list[str]:
    command = [sys.executable, "-c", "import importlinter.cli; importlinter.cli.lint_imports_command()"]
    run = subprocess.run(
        [*command, "--no-cache", "--no-logo"], cwd=house, capture_output=True, text=True, check=False, timeout=60
    )
    verdicts = run.stdout.splitlines()
    kept = {name for name in CONTRACTS.values() for line in verdicts if line.startswith(f"{name} KEPT")}
    broken = [i for i, name in CONTRACTS.items() for line in verdicts if line.startswith(f"{name} BROKEN")]
    assert len(kept) + len(broken) == len(CONTRACTS), run.stdout + run.stderr
    return broken


def test_every_contract_is_tried() -> None:
    assert {name for contracts, _, _ in VIOLATIONS for name in contracts.split("+")} == set(CONTRACTS)


def test_the_house_keeps_them_all(tmp_path: Path) -> None:
    assert broken_contracts(copy(tmp_path)) == []


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda v: f"{v[0]}: {v[1]}: {v[2].split()[-1]}")
def test_a_violation_breaks_its_contract_alone(violation: tuple[str, str, str], tmp_path: Path) -> None:
    contracts, path, line = violation
    assert set(broken_contracts(plant(tmp_path, path, line))) == set(contracts.split("+"))


def test_import_linter_sees_every_test() -> None:
    """A folder without __init__.py is no package, and its files are not checked."""
    folders = {file.parent for file in (HOUSE / "tests").rglob("*.py")}
    packages = {folder for folder in folders if (folder / "__init__.py").exists()}
    assert folders - packages == {HOUSE / "tests/chaos/clock"}, "sitecustomize.py is put on a path, not imported"
