"""Authentication and authorisation: bearer tokens with one of three roles, each including the one before."""

from dataclasses import dataclass

from millstream.errors import PermissionDenied, Unauthenticated
from servicekit.files import read_file

ROLES = ("reader", "writer", "operator")
_LOOKING = ("Get", "List", "Watch", "Read", "Download", "AliasAt")
_ASKING = ("Classify", "Embed", "Encode", "Predict", "Rank", "Recommend", "Reconstruct", "Search", "Similar")
_OPEN_INFERENCE = "inference.GRPCInferenceService"
_OPEN = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


@dataclass(frozen=True)
class Caller:
    """The name that ledgers keep, and the role."""

    name: str
    role: str


LOCAL = Caller("local", "operator")


class Tokens:
    """Accepted tokens, from a file with `token name role` a line; `#` begins a comment. No file: everybody is `local`."""

    def __init__(self, path: str) -> None:
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
                self._callers[words[0]] = Caller(words[1], words[2])

    def caller(self, service: str, method: str, authorization: str) -> Caller:
        """Who calls. Raises Unauthenticated or PermissionDenied."""
        if self._callers is None or service in _OPEN:
            return LOCAL
        scheme, _, token = authorization.partition(" ")
        caller = self._callers.get(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthenticated("send the metadata `authorization: Bearer TOKEN` with a token of this platform")
        needed = needed_role(service, method)
        if ROLES.index(caller.role) < ROLES.index(needed):
            raise PermissionDenied(f"{method} needs the role {needed}; {caller.name} is {caller.role}", needed=needed)
        return caller


def needed_role(service: str, method: str) -> str:
    """reader for what only looks, operator for operations (but for the status), writer for the rest."""
    if service.endswith(".OperationsService") and method != "GetStatus":
        return "operator"
    return "reader" if service == _OPEN_INFERENCE or method.startswith(_LOOKING + _ASKING) else "writer"
