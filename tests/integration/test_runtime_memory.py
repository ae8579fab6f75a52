"""What a call leaves in memory once it has ended: nothing, also without the garbage collector."""

import gc
import logging
import weakref
from collections.abc import Iterator

import pytest

from millstream.channel import open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import InvalidArgument, Unavailable
from tests.worlds.rpc import METHODS, Service, caught, serving
from tests.worlds.waiting import until


class Large:
    """Something that a call made of its request."""


class Refusing(Service):
    """Raises in every kind of method, from a frame that holds something large."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.kind, self.large = error, list[weakref.ref[Large]]()

    def _look(self) -> None:
        large = Large()
        self.large.append(weakref.ref(large))
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise self.kind("refused") from cause


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    """It counts objects and not bytes, so a busy service runs it late, whatever it would free."""
    gc.disable()
    logging.disable()  # what pytest keeps of the logs has the errors with their frames
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collector")
@pytest.mark.parametrize("error", [InvalidArgument, Unavailable, ValueError])
@pytest.mark.parametrize("kind", METHODS)
async def test_what_a_refused_call_held_is_freed_when_the_call_has_ended(kind: str, error: type[Exception]) -> None:
    service = Refusing(error)
    async with serving(service) as address, open_channel(address) as channel:
        for _ in range(3):
            await caught(DatasetServiceStub(channel), kind)
        await until(lambda: not any(large() for large in service.large))
    assert len(service.large) >= 3
