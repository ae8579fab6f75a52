"""Authentication and authorisation: bearer tokens with one of three roles, each including the one before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from millstream.auth.v1.role_pb2 import ROLE_OPERATOR, ROLE_READER, ROLE_UNSPECIFIED, ROLE_WRITER, Role, role
from millstream.errors import PermissionDenied, Unauthenticated
from millstream.states import word_of
from servicekit.files import read_file

_OPEN = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Services that everybody may call, with and without a token."""


@dataclass(frozen=True)
class Caller:
    """The name that ledgers keep, and the role."""

    name: str
    role: Role.ValueType


LOCAL = Caller("local", ROLE_OPERATOR)
ROLES = {word_of(Role, value): value for value in (ROLE_READER, ROLE_WRITER, ROLE_OPERATOR)}


def roles_of(services: Iterable[ServiceDescriptor]) -> dict[str, Role.ValueType]:
    """The role that each method needs, by `package.Service/Method`, as the protos say.

    Ends the process for a method without one: nobody has decided who may call it.
    """
    roles: dict[str, Role.ValueType] = {}
    for method in (method for service in services for method in service.methods):
        name = f"{method.containing_service.full_name}/{method.name}"
        roles[name] = method.GetOptions().Extensions[role]
        if roles[name] == ROLE_UNSPECIFIED:
            raise SystemExit(f"{name} has no role: give it the option (millstream.auth.v1.role) in its proto")
    return roles


class Tokens:
    """Accepted tokens, from a file with `token name role` a line; `#` begins a comment. No file: everybody is `local`."""

    def __init__(self, path: str, roles: Mapping[str, Role.ValueType]) -> None:
        self.roles = roles
        self._callers: dict[str, Caller] | None = None
        if path:
            self._callers = {}
            for number, line in enumerate(read_file(path).decode().splitlines(), 1):
                words = line.partition("#")[0].split()
                if not words:
                    continue
                if len(words) != 3 or words[2] not in ROLES:
                    raise SystemExit(
                        f"{path} line {number}: write `token name role`, the role being {', '.join(ROLES)}"
                    )
                self._callers[words[0]] = Caller(words[1], ROLES[words[2]])

    def caller(self, service: str, method: str, authorization: str) -> Caller:
        """The caller of a method. Raises Unauthenticated or PermissionDenied."""
        if self._callers is None or service in _OPEN:
            return LOCAL
        scheme, _, token = authorization.partition(" ")
        caller = self._callers.get(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthenticated("send the metadata `authorization: Bearer TOKEN` with a token of this platform")
        needed = self.roles.get(f"{service}/{method}", ROLE_OPERATOR)
        if caller.role < needed:
            text = f"{method} needs the role {word_of(Role, needed)}; {caller.name} is {word_of(Role, caller.role)}"
            raise PermissionDenied(text, needed=word_of(Role, needed))
        return caller
