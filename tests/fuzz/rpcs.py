"""Calls of every method that the servers' reflection names, with random requests."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.fuzz.messages import Messages

CALL_SECONDS = 20.0
"""After which a call that is no endless stream hangs."""
STREAM_SECONDS = 0.1
"""After which an endless stream is left."""
BUGS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED}
ENDLESS = ("Watch", "Tail", "ReadTrainingLog", "ServerReflectionInfo")


@dataclass(frozen=True)
class Method:
    """A method of a server, with the types of its messages."""

    channel: grpc.Channel
    path: str
    request: Descriptor
    response: Descriptor
    sends_stream: bool
    receives_stream: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Rpcs:
    """All methods of some servers, found by reflection."""

    def __init__(self, addresses: Mapping[str, str], names: Mapping[str, Sequence[str]]) -> None:
        self.names, self._open = names, ExitStack()
        self.answers: Counter[str] = Counter()
        """How often each status came, so that a reader sees whether the cases reach anything."""
        self.methods = [method for address in addresses.values() for method in self._methods(address)]

    def close(self) -> None:
        """Close the channels."""
        self._open.close()

    def run(self, rng: random.Random) -> str:
        """One call. Returns what is wrong with its answer; "" if nothing is."""
        method = rng.choice(self.methods)
        made = Messages(rng, self.names)
        requests = [made.bytes_of(method.request) for _ in range(rng.randrange(4) if method.sends_stream else 1)]
        endless = method.receives_stream and method.name.startswith(ENDLESS)
        try:
            for data in self._call(method, requests, STREAM_SECONDS if endless else CALL_SECONDS):
                MessageToJson(GetMessageClass(method.response).FromString(data))
            self.answers["OK"] += 1
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            self.answers[code.name] += 1
            if code == grpc.StatusCode.DEADLINE_EXCEEDED and endless:
                return ""
            if code in BUGS or code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"{method.path} answered {code.name}: {error.details()}"  # type: ignore[attr-defined]
        except ValueError as error:
            return f"{method.path} answered what has no JSON: {error}"
        return ""

    def _call(self, method: Method, requests: list[bytes], seconds: float) -> Iterator[bytes]:
        channel: Any = method.channel  # the stubs of types want a serialiser; bytes need none
        path = method.path
        if method.sends_stream and method.receives_stream:
            yield from channel.stream_stream(path)(iter(requests), timeout=seconds)
        elif method.sends_stream:
            yield channel.stream_unary(path)(iter(requests), timeout=seconds)
        elif method.receives_stream:
            yield from channel.unary_stream(path)(requests[0], timeout=seconds)
        else:
            yield channel.unary_unary(path)(requests[0], timeout=seconds)

    def _methods(self, address: str) -> Iterator[Method]:
        channel = self._open.enter_context(grpc.insecure_channel(address))
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        for service in database.get_services():
            for method in pool.FindServiceByName(service).methods:
                yield self._method(channel, service, method)

    @staticmethod
    def _method(channel: grpc.Channel, service: str, method: MethodDescriptor) -> Method:
        return Method(
            channel,
            f"/{service}/{method.name}",
            method.input_type,
            method.output_type,
            method.client_streaming,
            method.server_streaming,
        )
