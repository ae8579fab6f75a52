"""With what a worker trains, and in what that differs from a run's first attempt: such a run is not bit-exact."""

from collections.abc import Iterator

from millstream.training.v1.attempt_pb2 import RunNumerics
from recipekit.catalog import Catalog
from recipekit.hardware import PACKAGES, processor
from servicekit.build_info import build_info, package_versions


def origin_here(catalog: Catalog, recipe: str) -> RunNumerics:
    """Processor, packages and code of this worker, without numerics. Raises UnknownRecipe. Blocks."""
    installed = {name.lower(): version for name, version in package_versions().items()}
    here = RunNumerics(processor=processor(), code_digest=catalog.code_digest(recipe), code_commit=build_info().commit)
    here.packages.update({name: installed[name] for name in PACKAGES if name in installed})
    return here


def differences(first: RunNumerics, here: RunNumerics) -> str:
    """In what this worker differs from the first attempt's; "": in nothing that was recorded then."""
    return "; ".join(_differences(first, here))


def _differences(first: RunNumerics, here: RunNumerics) -> Iterator[str]:
    if first.processor and first.processor != here.processor:
        yield f"{here.processor}, not {first.processor}"
    for name in sorted({*first.packages, *here.packages} if first.packages else ()):
        now, then = (versions.get(name, "none") for versions in (here.packages, first.packages))
        if now != then:
            yield f"{name} {now}, not {then}"
    if first.code_digest and first.code_digest != here.code_digest:
        commits = (here.code_commit, first.code_commit)
        known = all(commits) and commits[0] != commits[1]
        yield "other code of the recipe" + (f" (commit {commits[0][:12]}, not {commits[1][:12]})" if known else "")
