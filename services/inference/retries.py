"""An operator lets a version be tried again that was refused, or that replicas could not load."""

from typing import TYPE_CHECKING

from millstream.errors import InvalidArgument, NotFound
from millstream.inference.v1.refusal_pb2 import RefusalLift
from millstream.registry.v1.registry_service_pb2 import GetModelVersionRequest
from servicekit.ids import check_name
from servicekit.limits import check_reason
from servicekit.work.queue import Work
from services.inference.reconcile import ModelKey
from services.inference.store import Store
from services.inference.versions.serving import Serving

if TYPE_CHECKING:
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub


class Retries:
    """Lifts what is stored against a version. This replica tries it at once, the others when they look again."""

    def __init__(self, registry: "RegistryServiceAsyncStub", store: Store, serving: Serving, work: Work) -> None:
        self.registry, self.store, self.serving, self.work = registry, store, serving, work

    async def retry(self, model: str, version: int, note: str, actor: str) -> RefusalLift:
        """Record the lift and queue the model. Raises NotFound for a model that is not served here, or a
        version that the registry does not know, and Unavailable while it does not answer: it must for the version to load.
        """
        if not version:
            raise InvalidArgument("version is 0: give the number of the version to try again", field="version")
        check_reason(note, "note")
        if check_name(model, "model") not in self.serving.models():
            raise NotFound(f"no model is named {model!r} here: see `millstream models list`", model=model)
        await self.registry.GetModelVersion(GetModelVersionRequest(model=model, version=version))
        lift = await self.store.lift(model, version, actor, note)
        self.work.add(ModelKey(model))
        return lift
