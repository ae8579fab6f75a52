"""Who makes the present RPC, and until when it waits: set by the interceptor, read by the services."""

from contextvars import ContextVar

from millstream.auth.v1.role_pb2 import ROLE_OPERATOR, Role
from millstream.errors import PermissionDenied
from millstream.states import word_of
from servicekit.rpc.auth import LOCAL, Caller

CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


def actor() -> str:
    """The name of the caller of the present RPC, for ledgers."""
    return CALLER.get().name


def check_operator(what: str) -> None:
    """Raise PermissionDenied unless the caller of the present RPC is an operator. `what` needs it, by its name."""
    caller = CALLER.get()
    if caller.role < ROLE_OPERATOR:
        raise PermissionDenied(f"{what} needs the role operator; {caller.name} is {word_of(Role, caller.role)}")


def deadline() -> float | None:
    """The present RPC's deadline on the monotonic clock; None: it has none."""
    return DEADLINE.get()
