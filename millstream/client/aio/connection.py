"""Channels to the five services, and the walk through the pages of a listing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, Self, TypeVar

from grpc import aio

from millstream.channel import Credentials, open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import InvalidArgument
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub


class _Asking(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


R = TypeVar("R", bound=_Asking)
P = TypeVar("P", bound=_Page)


PLAINTEXT = Credentials()


class Connection:
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""

    def __init__(
        self,
        *,
        dataprep: str = "127.0.0.1:50051",
        trainer: str = "127.0.0.1:50052",
        evaluator: str = "127.0.0.1:50053",
        registry: str = "127.0.0.1:50054",
        inference: str = "127.0.0.1:50055",
        credentials: Credentials = PLAINTEXT,
    ) -> None:
        addresses = {
            "dataprep": dataprep,
            "trainer": trainer,
            "evaluator": evaluator,
            "registry": registry,
            "inference": inference,
        }
        self._channels: dict[str, aio.Channel] = {
            service: open_channel(address, credentials, retry=True) for service, address in addresses.items()
        }
        self._datasets = DatasetServiceStub(self._channels["dataprep"])
        self._training = TrainingServiceStub(self._channels["trainer"])
        self._evaluation = EvaluationServiceStub(self._channels["evaluator"])
        self._registry = RegistryServiceStub(self._channels["registry"])
        self._inference = InferenceServiceStub(self._channels["inference"])

    def _channel(self, service: str) -> aio.Channel:
        if service not in self._channels:
            raise InvalidArgument(f"{service!r} is no service; there are: {', '.join(self._channels)}", field="service")
        return self._channels[service]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def pages(call: Callable[[R], Awaitable[P]], request: R) -> AsyncIterator[P]:
    """Each page of a listing, asked for when the one before has been used."""
    while True:
        page = await call(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
