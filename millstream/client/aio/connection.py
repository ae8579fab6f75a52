"""Channels to the five services."""

from typing import Self

from grpc import aio

from millstream.channel import Credentials, open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.defaults import address
from millstream.errors import InvalidArgument
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub

PLAINTEXT = Credentials()


class Connection:
    """The channels. They connect at the first call, not here.

    An address is one `host:port`, or several with commas between: replicas, used in turn (round robin).
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
        addresses = {
            "dataprep": dataprep,
            "trainer": trainer,
            "evaluator": evaluator,
            "registry": registry,
            "inference": inference,
        }
        self._channels: dict[str, aio.Channel] = {
            service: open_channel(named, credentials, retry=True) for service, named in addresses.items()
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
        """Close all channels; calls in flight end with an error. A second close does nothing."""
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
