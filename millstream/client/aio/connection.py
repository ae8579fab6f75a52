"""Channels to the five services."""

import asyncio  # asyncio only
import threading
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,  # asyncio only
    Any,
    Self,
    TypeVar,
)

from grpc import aio

from millstream.channel import check_loop, checked_address, open_channel
from millstream.credentials import PLAINTEXT, Credentials
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.defaults import address
from millstream.errors import InvalidArgument
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub

if TYPE_CHECKING:  # asyncio only
    from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub  # asyncio only
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub  # asyncio only
    from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub  # asyncio only
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub  # asyncio only
    from millstream.training.v1.training_service_pb2_grpc import TrainingServiceAsyncStub  # asyncio only

S = TypeVar("S")


class Connection:
    """The channels. They are opened at the first call, not here.

    An address is one `host:port`, or several with commas between: replicas, used in turn (round robin).
    Raises InvalidArgument for an address that gRPC cannot use.
    """

    def __init__(
        self,
        *,
        dataprep: str = address("dataprep"),
        trainer: str = address("trainer"),
        evaluator: str = address("evaluator"),
        registry: str = address("registry"),
        inference: str = address("inference"),
        credentials: Credentials = PLAINTEXT,
    ) -> None:
        self._addresses = {
            "dataprep": checked_address(dataprep),
            "trainer": checked_address(trainer),
            "evaluator": checked_address(evaluator),
            "registry": checked_address(registry),
            "inference": checked_address(inference),
        }
        self._credentials = credentials
        self._channels: dict[str, aio.Channel] = {}
        self._stubs: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # asyncio only
        self._opening = threading.Lock()

    @property
    def _datasets(self) -> "DatasetServiceAsyncStub":
        return self._stub("dataprep", DatasetServiceStub)

    @property
    def _training(self) -> "TrainingServiceAsyncStub":
        return self._stub("trainer", TrainingServiceStub)

    @property
    def _evaluation(self) -> "EvaluationServiceAsyncStub":
        return self._stub("evaluator", EvaluationServiceStub)

    @property
    def _registry(self) -> "RegistryServiceAsyncStub":
        return self._stub("registry", RegistryServiceStub)

    @property
    def _inference(self) -> "InferenceServiceAsyncStub":
        return self._stub("inference", InferenceServiceStub)

    def _stub(self, service: str, kind: Callable[[aio.Channel], S]) -> S:
        channel = self._channel(service)
        if service not in self._stubs:
            self._stubs[service] = kind(channel)
        found: S = self._stubs[service]
        return found

    def _channel(self, service: str) -> aio.Channel:
        """The service's channel, opened at its first use."""
        if service not in self._addresses:
            raise InvalidArgument(
                f"{service!r} is no service; there are: {', '.join(self._addresses)}", field="service"
            )
        self._loop = check_loop(self._loop)  # asyncio only
        with self._opening:
            if service not in self._channels:
                self._channels[service] = open_channel(self._addresses[service], self._credentials, retry=True)
        return self._channels[service]

    async def close(self) -> None:
        """Close all channels; calls in flight end with an error. A second close does nothing."""
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
