"""Environment variables that Kubernetes and Docker inject for a service named `millstream-…`; they are no settings of ours.

For a service `millstream-registry` every pod of its namespace gets `MILLSTREAM_REGISTRY_PORT=tcp://10.0.0.1:50054`, and six
more beside it. An address of that shape marks them: another value of the same name is a slip, and stays an error.
"""

import re
from collections.abc import Mapping

_ADDRESS = re.compile("(tcp|udp|sctp)://.+", re.IGNORECASE)
_BESIDE = "_PORT|_SERVICE_HOST|_SERVICE_PORT(_.+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?"


def service_links(environment: Mapping[str, str], prefix: str) -> list[str]:
    """The names with this prefix that the cluster has injected, sorted."""
    of_ours = {name: value for name, value in environment.items() if name.startswith(prefix)}
    services = [
        name.removesuffix("_PORT")
        for name, value in of_ours.items()
        if name.endswith("_PORT") and _ADDRESS.fullmatch(value)
    ]
    if not services:
        return []
    injected = re.compile(f"({'|'.join(map(re.escape, services))})({_BESIDE})")
    return sorted(name for name in of_ours if injected.fullmatch(name))
