"""Finds recipes by listing folders, and imports a recipe on first use.

A message never chooses an import: a name that the listing does not hold raises UnknownRecipe.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from recipekit.spec import BadConfig, Config, Spec


class UnknownRecipe(LookupError):
    """No folder of that name holds a recipe. The text names those that do."""


class Catalog:
    """The recipes in the given packages. A folder with a spec.py is one."""

    def __init__(self, packages: Iterable[str] = ("recipes",)) -> None:
        self.packages = tuple(packages)

    @cached_property
    def _folders(self) -> dict[str, tuple[str, Path]]:
        found: dict[str, tuple[str, Path]] = {}
        for package in self.packages:
            for root in importlib.import_module(package).__path__:
                for spec in sorted(Path(root).glob("*/spec.py")):
                    found.setdefault(spec.parent.name, (f"{package}.{spec.parent.name}", spec.parent))
        return found

    def names(self) -> list[str]:
        """The names of all recipes, sorted."""
        return sorted(self._folders)

    def folder(self, name: str) -> Path:
        """The recipe's folder, with its sample.jsonl and model.yaml. Raises UnknownRecipe."""
        return self._find(name)[1]

    def spec(self, name: str) -> Spec:
        """The recipe's SPEC. Raises UnknownRecipe."""
        return cast(Spec, self._module(name, "spec").SPEC)

    def configure(self, recipe: str, preset: str, overrides: Mapping[str, Any]) -> Config:
        """The complete config of a run. Raises BadConfig for an unknown recipe or preset, or the first wrong field."""
        try:
            spec = self.spec(recipe)
        except UnknownRecipe as error:
            raise BadConfig("recipe", str(error)) from None
        return spec.configure(preset, overrides)

    def fit(self, name: str) -> Callable[..., None]:
        """`fit(config, data, run)`; importing it may import torch."""
        return cast(Callable[..., None], self._module(name, "train").fit)

    def load(self, name: str) -> Callable[[Path], Any]:
        """`load(artifact folder) → Predictor`; importing it may import torch."""
        return cast(Callable[[Path], Any], self._module(name, "predict").load)

    def code_digest(self, name: str) -> str:
        """The sha256 of the source that trains a recipe: its own, and recipekit's. Raises UnknownRecipe."""
        digest = hashlib.sha256()
        for folder in (self.folder(name), Path(__file__).parent):
            for path in sorted(folder.rglob("*.py")):
                if not path.name.startswith("test_"):
                    digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
        return digest.hexdigest()

    def _find(self, name: str) -> tuple[str, Path]:
        if name not in self._folders:
            raise UnknownRecipe(f"no recipe is named {name!r}; there are: {', '.join(self.names())}")
        return self._folders[name]

    def _module(self, name: str, part: str) -> ModuleType:
        return importlib.import_module(f"{self._find(name)[0]}.{part}")
