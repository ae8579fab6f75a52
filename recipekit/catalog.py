"""Finds recipes by listing folders and imports one only when it is asked for.

A message never chooses an import: a name is looked up in the listing first, and is refused if it is not there.
"""

import importlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from recipekit.spec import Spec


class UnknownRecipe(LookupError):
    """No folder of that name holds a recipe."""


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
        return sorted(self._folders)

    def folder(self, name: str) -> Path:
        """Where the recipe lives: its sample.jsonl and model.yaml are there."""
        return self._find(name)[1]

    def spec(self, name: str) -> Spec:
        return cast(Spec, self._module(name, "spec").SPEC)

    def fit(self, name: str) -> Callable[..., None]:
        """`fit(config, data, run)`; importing it may import torch."""
        return cast(Callable[..., None], self._module(name, "train").fit)

    def load(self, name: str) -> Callable[[Path], Any]:
        """`load(artifact folder) → Predictor`; importing it may import torch."""
        return cast(Callable[[Path], Any], self._module(name, "predict").load)

    def _find(self, name: str) -> tuple[str, Path]:
        if name not in self._folders:
            raise UnknownRecipe(f"no recipe is named {name!r}; there are: {', '.join(self.names())}")
        return self._folders[name]

    def _module(self, name: str, part: str) -> ModuleType:
        return importlib.import_module(f"{self._find(name)[0]}.{part}")
