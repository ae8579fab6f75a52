"""What both clients share: nothing here waits for the network."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from millstream.errors import DeadlineExceeded, InvalidArgument, Unavailable
from millstream.registry.v1.model_pb2 import ModelSpec

PAGE = 200
TRIES = 4


def new_request_id() -> str:
    """Names one wish, so that asking again after a lost reply is harmless."""
    return str(uuid4())


def model_spec(spec: ModelSpec | Mapping[str, Any]) -> ModelSpec:
    """A spec from its message or from a mapping such as a model.yaml. Raises InvalidArgument naming the wrong field."""
    if isinstance(spec, ModelSpec):
        return spec
    try:
        return ParseDict(dict(spec), ModelSpec())
    except ParseError as error:
        raise InvalidArgument(f"this is no model spec: {error}", field="spec") from None


def struct(values: Mapping[str, Any]) -> Struct:
    """A Struct from a mapping."""
    made = Struct()
    made.update(values)
    return made


@dataclass
class Patience:
    """How long a watch goes on: `timeout` seconds in all, and 30 seconds without any answer."""

    timeout: float | None
    what: str
    silence: float = 30.0
    started: float = field(default_factory=time.monotonic)
    tries: int = 0

    def __post_init__(self) -> None:
        self.last_heard = self.started

    def heard(self) -> None:
        self.last_heard, self.tries = time.monotonic(), 0

    def left(self) -> float | None:
        """Seconds until the timeout. Raises DeadlineExceeded once there are none."""
        if self.timeout is None:
            return None
        left = self.started + self.timeout - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.what} was not there after {self.timeout:g} s; it goes on: ask again")
        return left

    def pause(self, error: Unavailable | None = None) -> float:
        """Seconds to wait before the next look. Raises the error once nobody has answered for too long."""
        if error and time.monotonic() - self.last_heard > self.silence:
            raise error
        left = self.left()
        self.tries += 1
        pause: float = min(1.0, 0.05 * 2 ** min(self.tries, 5))
        return pause if left is None else min(pause, left)
