# Derived from aio/connection.py by `python tools/derive_client.py`: do not edit.
"""Channels to the five services."""

import threading
from collections.abc import Callable
from typing import (
    Any,
    Self,
    TypeVar,
)

import grpc

from millstream.channel import checked_address, open_sync_channel
from millstream.credentials import PLAINTEXT, Credentials
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.defaults import address
from millstream.errors import InvalidArgument
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub

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
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[str, Any] = {}
        self._opening = threading.Lock()

    @property
    def _datasets(self) -> "DatasetServiceStub":
        return self._stub("dataprep", DatasetServiceStub)

    @property
    def _training(self) -> "TrainingServiceStub":
        return self._stub("trainer", TrainingServiceStub)

    @property
    def _evaluation(self) -> "EvaluationServiceStub":
        return self._stub("evaluator", EvaluationServiceStub)

    @property
    def _registry(self) -> "RegistryServiceStub":
        return self._stub("registry", RegistryServiceStub)

    @property
    def _inference(self) -> "InferenceServiceStub":
        return self._stub("inference", InferenceServiceStub)

    def _stub(self, service: str, kind: Callable[[grpc.Channel], S]) -> S:
        channel = self._channel(service)
        if service not in self._stubs:
            self._stubs[service] = kind(channel)
        found: S = self._stubs[service]
        return found

    def _channel(self, service: str) -> grpc.Channel:
        """The service's channel, opened at its first use."""
        if service not in self._addresses:
            raise InvalidArgument(
                f"{service!r} is no service; there are: {', '.join(self._addresses)}", field="service"
            )
        with self._opening:
            if service not in self._channels:
                self._channels[service] = open_sync_channel(self._addresses[service], self._credentials, retry=True)
        return self._channels[service]

    def close(self) -> None:
        """Close all channels; calls in flight end with an error. A second close does nothing."""
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
