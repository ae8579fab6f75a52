"""The W3C trace context of the work at hand (https://www.w3.org/TR/trace-context/), carried by calls, events and logs."""

import re
import secrets
from contextvars import ContextVar

_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str] = ContextVar("traceparent", default="")


def traceparent() -> str:
    """The present traceparent; a new trace where there is none."""
    if not _current.get():
        continue_trace("")
    return _current.get()


def continue_trace(value: str) -> None:
    """Go on in the given trace, as a new span of it; anything malformed starts a new trace."""
    if not _FORM.fullmatch(value):
        value = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _current.set(f"{value[:36]}{secrets.token_hex(8)}{value[52:55]}")


def trace_id() -> str:
    """The id of the present trace, or an empty text outside any."""
    return _current.get()[3:35]
