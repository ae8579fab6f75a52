"""The GPUs of this machine: which a run can have, and which of them are free."""

import math
import time
from collections.abc import Collection

from millstream.errors import FailedPrecondition
from millstream.training.v1.training_run_pb2 import Resources
from recipekit.hardware import gpus
from servicekit.work.resync import LOOK_AGAIN_SECONDS

AUTO = "auto"


class Devices:
    """The GPUs of this machine that workers take turns on, by the setting `MILLSTREAM_GPUS`."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self._products: dict[str, str] = {}
        self._looked = -math.inf

    @property
    def products(self) -> dict[str, str]:
        """By uuid, so that two trainers book one GPU by one name: the product, "" where it is unknown.

        Blocks while it asks the driver: until it has named a GPU now and then, since it may be about to load.
        """
        if not self._products and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
            self._products = self._find()
            self._looked = time.monotonic()
        return self._products

    def _find(self) -> dict[str, str]:
        if self.setting == AUTO:
            return gpus()
        named = [one.strip() for one in self.setting.split(",") if one.strip()]
        if not named:
            return {}
        # Without a listing the names are taken as they are; one that a listing lacks is no GPU.
        return gpus(self.setting) or ({} if gpus() else dict.fromkeys(named, ""))

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
