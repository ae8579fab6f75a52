"""The GPUs of this machine: which a run can have, and which of them are free."""

from collections.abc import Collection
from functools import cached_property

from millstream.errors import FailedPrecondition
from millstream.training.v1.training_run_pb2 import Resources
from recipekit.hardware import gpus

AUTO = "auto"


class Devices:
    """The GPUs of this machine that workers take turns on, by the setting `MILLSTREAM_GPUS`."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    @cached_property
    def products(self) -> dict[str, str]:
        """By id, as CUDA_VISIBLE_DEVICES names it: the product, "" where it is unknown. Blocks at the first use."""
        if self.setting == AUTO:
            return gpus()
        ids = [one.strip() for one in self.setting.split(",") if one.strip()]
        found = gpus() if ids else {}
        return {one: found.get(one, "") for one in ids}

    def check(self, resources: Resources) -> None:
        """Raise FailedPrecondition, with what to do, for resources that this machine does not have."""
        for name, asked, here in (
            ("nodes", resources.nodes, 1),
            ("gpus", resources.gpus, len(self._fitting(resources.gpu_product))),
        ):
            if asked > here:
                what = f"{'GPU' if name == 'gpus' else 'node'}{'' if here == 1 else 's'}"
                of = f" of the product {resources.gpu_product}" if name == "gpus" and resources.gpu_product else ""
                advice = f"set training.resources.{name}: {here} or run a trainer that has {asked}"
                raise FailedPrecondition(
                    f"this machine has {here} {what}{of}; {advice}", field=f"spec.resources.{name}"
                )

    def choose(self, resources: Resources, used: Collection[str]) -> list[str] | None:
        """The GPUs for a worker: as many as asked for, and one at least if the machine has any; None: too few are free."""
        fitting = self._fitting(resources.gpu_product)
        count = max(resources.gpus, 1 if fitting else 0)
        free = [one for one in fitting if one not in used]
        return free[:count] if len(free) >= count else None

    def environment(self, chosen: Collection[str]) -> dict[str, str]:
        """What lets a worker see the chosen GPUs only. A machine in which none was found is left as it is."""
        hides = self.setting != AUTO or self.products
        return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if hides else {}

    def _fitting(self, product: str) -> list[str]:
        """Those of a product, whose blanks are hyphens in Kubernetes' labels; "": any."""
        asked = product.replace(" ", "-")
        return [one for one, name in self.products.items() if not asked or name.replace(" ", "-") == asked]
