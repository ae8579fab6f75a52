"""Keys of work: a kind, and the typed parts that name one obligation of that kind."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from servicekit.facts.open_work import OpenFact


@dataclass(frozen=True)
class Key:
    """The parent of all keys. A kind of work is a frozen dataclass of its own, with its name in `kind`."""

    kind: ClassVar[str]

    def __str__(self) -> str:
        """The parts as logs show them: `toy/3`."""
        return "/".join(str(getattr(self, part.name)) for part in fields(self))


Handlers = Mapping[type[Any], Callable[[Any], Iterable[Key]]]
"""By type of fact, the keys of work that it gives: of events, and of stored messages that are not published."""


class Receiver(Protocol):
    """Takes the keys that a consumer finds in events; Work is one."""

    async def receive(self, fact: OpenFact, traceparent: str) -> None:
        """Queue the keys that a fact gives, with the trace of its event. Raises what the handler raises."""
        ...

    def resync_soon(self) -> None:
        """Resync in the background: events may have been missed."""
        ...
