"""Why a service was not reached, as far as it can be seen from here, and the next step that works."""

import os
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from millstream.cli.hints import present
from millstream.cli.local import running_platform
from millstream.defaults import PORT_BASE, joined
from millstream.errors import MillstreamError

PROBE_SECONDS = 1.0
_PEER = re.compile(r"ipv[46]:((?:%5B|\[)?[0-9a-zA-Z.:]+(?:%5D|\])?:[0-9]+)")
_UNRESOLVED = re.compile(r"(?:errors resolving|lookup failed for) (\S+?:[0-9]+)")


def why_not_reached(error: MillstreamError) -> str:
    """The cause that was seen, and the next step, as one text."""
    text, peer = error.text, _peer(error.text)
    if unresolved := _UNRESOLVED.search(text):
        return f"the host of {unresolved[1]} has no address: correct --host, or the MILLSTREAM_… variable that names it"
    for sign, explain in _CAUSES.items():
        if (peer or explain is _wrong_name) and re.search(sign, text, re.IGNORECASE):
            return explain(peer)
    return f"no answer ({text}): see `millstream status`"


def _peer(text: str) -> str:
    """The address that was tried last, as an option takes it; "": the text names none."""
    found = _PEER.search(text)
    return unquote(found[1]) if found else ""


def _nobody_listens(peer: str) -> str:
    host, _, port = peer.rpartition(":")
    seen = f"nothing listens at {peer}"
    if _listens(host.strip("[]"), int(port)):
        return f"what listens at {peer} does not answer, as a process that hangs: see its log, then start it again"
    if not _is_loopback(host):
        return f"{seen}: start the service there, or name another place with --host and --port-base"
    for other in ("::1", "127.0.0.1"):
        if other != host.strip("[]") and _listens(other, int(port)):
            return f"{seen}, but at {joined(other, port)}: add `--host {other}`"
    platform = running_platform(present().state)
    if platform and platform.addresses and peer not in ",".join(platform.addresses.values()).split(","):
        return (
            f"{seen}; the platform of {platform.state} listens on other ports: add `--port-base {platform.port_base}`"
        )
    if platform:
        return (
            f"{seen}, although a platform runs on {platform.state}: wait for its start, or read {platform.state}/logs"
        )
    return (
        f"{seen}, so no platform is up there: `millstream up` starts one on this machine; one on other ports than "
        f"{PORT_BASE + 1} to {PORT_BASE + 5} is found with --port-base, or MILLSTREAM_PORT_BASE"
    )


def _broke_off(peer: str) -> str:
    host, _, port = peer.rpartition(":")
    secure = os.environ.get("MILLSTREAM_TLS_CA_FILE", "")
    if not secure and peer and _speaks_tls(host.strip("[]"), int(port)):
        return f"{peer} speaks TLS, and this command plaintext: set MILLSTREAM_TLS_CA_FILE to the PEM file of its authority"
    if secure and not os.environ.get("MILLSTREAM_TLS_CLIENT_CERT_FILE"):
        return (
            f"{peer} breaks the TLS connection off: it may require a client certificate. Set "
            "MILLSTREAM_TLS_CLIENT_CERT_FILE and MILLSTREAM_TLS_CLIENT_KEY_FILE"
        )
    return f"{peer or 'the service'} broke the connection off, as one does that stops: see `millstream status`"


def _not_trusted(peer: str) -> str:
    file = os.environ.get("MILLSTREAM_TLS_CA_FILE", "")
    return f"the certificate of {peer} is not signed by the authority in {file}: set MILLSTREAM_TLS_CA_FILE to the right one"


def _plaintext(peer: str) -> str:
    return f"{peer} speaks plaintext, and this command TLS: unset MILLSTREAM_TLS_CA_FILE, or set TLS in the services"


def _wrong_name(peer: str) -> str:
    return "the certificate does not name the host that was called: use a name or address that it has (--host)"


def _not_ours(peer: str) -> str:
    return f"what listens at {peer} speaks no gRPC, such as a metrics port: correct --port-base"


_CAUSES: dict[str, Callable[[str], str]] = {
    "WRONG_VERSION_NUMBER": _plaintext,
    "CERTIFICATE_VERIFY_FAILED": _not_trusted,
    "does not match SSL server name|Hostname Verification": _wrong_name,
    "Failed parsing HTTP/2|Trying to connect an http1.x server": _not_ours,
    "refused|No route|unreachable|timed out": _nobody_listens,
    "Socket closed|reset|Broken pipe|handshake|EOF|shutdown": _broke_off,
}
"""By what gRPC writes; the first that fits holds."""


def _is_loopback(host: str) -> bool:
    return host.strip("[]") in ("::1", "localhost") or host.startswith("127.")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), PROBE_SECONDS):
            return True
    except OSError:
        return False


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError), socket.create_connection((host, port), PROBE_SECONDS) as found, context.wrap_socket(found):
        return True
    return False
