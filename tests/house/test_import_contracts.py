"""Each import contract of pyproject.toml is alive: planting what it forbids breaks that contract, and no other."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract["name"] for contract in CONFIG["contracts"]}

VIOLATIONS = [
    ("layers", "servicekit/planted.py", "import services.registry.planted"),
    ("layers", "millstream/planted.py", "import servicekit.planted"),
    ("layers", "servicekit/planted.py", "import recipekit.planted"),
    ("layers", "services/registry/planted.py", "import recipes.one.planted"),
    ("services", "services/registry/planted.py", "import services.dataprep.planted"),
    ("recipes", "recipes/one/planted.py", "import recipes.two.planted"),
    ("notebook", "recipes/one/planted.py", "import grpc"),
    ("notebook", "recipekit/planted.py", "import kafka"),
    ("notebook", "recipekit/planted.py", "import minio"),
    ("torch", "servicekit/planted.py", "import torch"),
    ("torch", "recipes/one/spec.py", "import torch.nn"),
    ("torch", "recipekit/run.py", "import torch"),
    ("torch", "recipekit/catalog.py", "import torch"),
    ("torch", "recipekit/predictor.py", "def late() -> None:\n    import torch"),
    ("torch", "services/dataprep/planted.py", "import torch"),
    ("torch", "services/registry/planted.py", "import torch"),
    ("torch", "services/trainer/planted.py", "import torch"),
    ("torch", "services/evaluator/planted.py", "import torch"),
    ("torch", "services/inference/planted.py", "import torch"),
    ("worker", "services/trainer/planted.py", "import services.trainer.worker.attempt"),
    ("worker", "tests/unit/trainer/planted.py", "import services.trainer.worker.attempt"),
    ("clients", "services/registry/planted.py", "import kafka"),
    ("clients", "deploy/planted.py", "import minio"),
    ("outermost", "servicekit/planted.py", "import deploy.planted"),
    ("outermost", "services/registry/planted.py", "import tests.planted"),
    ("outermost", "deploy/planted.py", "import bench.planted"),
    ("outermost", "deploy/planted.py", "import tools.planted"),
]
# Planted beside the sources: what the violations import, and one folder more wherever a rule needs two.
SCENERY = [
    "bench", "deploy", "tests", "tools", "servicekit", "recipekit", "millstream", "recipes/one", "recipes/two",
    "services/dataprep", "services/evaluator", "services/inference", "services/registry", "services/trainer",
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
    assert {violation[0] for violation in VIOLATIONS} == set(CONTRACTS)


def test_the_house_keeps_them_all(tmp_path: Path) -> None:
    assert broken_contracts(copy(tmp_path)) == []


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda v: f"{v[0]}: {v[1]}: {v[2].split()[-1]}")
def test_a_violation_breaks_its_contract_alone(violation: tuple[str, str, str], tmp_path: Path) -> None:
    contract, path, line = violation
    assert broken_contracts(plant(tmp_path, path, line)) == [contract]
