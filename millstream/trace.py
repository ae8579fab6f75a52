"""The current W3C trace context (https://www.w3.org/TR/trace-context/), which calls, events and logs carry."""

import re
import secrets
from contextvars import ContextVar

_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str] = ContextVar("traceparent", default="")


def traceparent() -> str:
    """The current traceparent header; starts a new trace if there is none."""
    if not _current.get():
        continue_trace("")
    return _current.get()


def continue_trace(value: str) -> None:
    """Continue the trace of a traceparent header as a new span; a malformed value starts a new trace."""
    if not _FORM.fullmatch(value):
        value = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _current.set(f"{value[:36]}{secrets.token_hex(8)}{value[52:55]}")


def trace_id() -> str:
    """The current trace id, 32 hex digits; "" outside any trace."""
    return _current.get()[3:35]
