"""Authentication and authorisation: bearer tokens with one of three roles, each including the one before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from millstream.auth.v1.role_pb2 import ROLE_OPERATOR, ROLE_READER, ROLE_UNSPECIFIED, ROLE_WRITER, Role, role
from millstream.errors import PermissionDenied, Unauthenticated
from millstream.files import WatchedFiles
from millstream.states import word_of
from servicekit.limits import CALLER_CHARACTERS

OPEN = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Services that need no token."""


@dataclass(frozen=True)
class Caller:
    """Who makes a call: the name that ledgers record, and the role."""

    name: str
    role: Role.ValueType


LOCAL = Caller("local", ROLE_OPERATOR)
ROLES = {word_of(Role, value): value for value in (ROLE_READER, ROLE_WRITER, ROLE_OPERATOR)}


def roles_of(services: Iterable[ServiceDescriptor]) -> dict[str, Role.ValueType]:
    """The role that each method requires, by `package.Service/Method`, from its option in the proto.

    Ends the process for a method without one.
    """
    roles: dict[str, Role.ValueType] = {}
    for method in (method for service in services for method in service.methods):
        name = f"{method.containing_service.full_name}/{method.name}"
        roles[name] = method.GetOptions().Extensions[role]
        if roles[name] == ROLE_UNSPECIFIED:
            raise SystemExit(f"{name} has no role: give it the option (millstream.auth.v1.role) in its proto")
    return roles


class Tokens:
    """The accepted tokens of a file, one `token name role` a line, `#` for comments. No file: every caller is `local`.

    A changed file is read again. Ends the process for one that cannot be used at the start.
    """

    def __init__(self, path: str, roles: Mapping[str, Role.ValueType]) -> None:
        self.roles, self._path = roles, path
        self._file: WatchedFiles[dict[str, Caller]] | None = None
        if path:
            try:
                self._file = WatchedFiles([path], self._callers_of)
            except OSError as error:
                raise SystemExit(f"cannot read {path}: {error.strerror}") from None
            except ValueError as error:
                raise SystemExit(str(error)) from None

    def caller(self, service: str, method: str, authorization: str) -> Caller:
        """The caller, from the `authorization` metadata. Raises Unauthenticated or PermissionDenied."""
        if self._file is None or service in OPEN:
            return LOCAL
        scheme, _, token = authorization.partition(" ")
        caller = self._file.value.get(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthenticated("send the metadata `authorization: Bearer TOKEN` with a token of this platform")
        needed = self.roles.get(f"{service}/{method}", ROLE_OPERATOR)
        if caller.role < needed:
            text = f"{method} needs the role {word_of(Role, needed)}; {caller.name} is {word_of(Role, caller.role)}"
            raise PermissionDenied(text, needed=word_of(Role, needed))
        return caller

    def _callers_of(self, data: bytes) -> dict[str, Caller]:
        """By token. Raises ValueError naming the first wrong line."""
        callers: dict[str, Caller] = {}
        for number, line in enumerate(data.decode().splitlines(), 1):
            fields = line.partition("#")[0].split()
            if not fields:
                continue
            where = f"{self._path} line {number}"
            if len(fields) != 3 or fields[2] not in ROLES:
                raise ValueError(f"{where}: write `token name role`, the role being {', '.join(ROLES)}")
            if len(fields[1]) > CALLER_CHARACTERS:
                raise ValueError(f"{where}: a name has at most {CALLER_CHARACTERS} characters")
            callers[fields[0]] = Caller(fields[1], ROLES[fields[2]])
        return callers
