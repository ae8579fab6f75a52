"""The gRPC server of a service, and the limits of its connections."""

from collections.abc import Iterable
from dataclasses import dataclass

from grpc import aio

from millstream.channel import MAX_MESSAGE_BYTES
from servicekit.limits import REQUEST_BYTES, request_bytes
from servicekit.rpc.interceptor import ServerInterceptor

AGE_GRACE_SECONDS = 3600.0
"""Seconds that the calls of a connection have to end once it is too old."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How long a connection may be idle or old, how many streams it may have, and how many connections there may be."""

    idle_seconds: float = 300.0
    age_seconds: float = 86400.0
    streams: int = 1000
    connections: int = 1000


def open_server(
    interceptor: ServerInterceptor, services: Iterable[str], limits: ConnectionLimits = ConnectionLimits()
) -> aio.Server:
    """A server for these gRPC services (full names), not yet listening.

    grpc drops a message above the largest limit of its services while it unpacks it; the interceptor has the others.
    """
    options = [
        ("grpc.max_receive_message_length", max(REQUEST_BYTES, *map(request_bytes, services))),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_idle_ms", int(limits.idle_seconds * 1000)),
        ("grpc.max_connection_age_ms", int(limits.age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(AGE_GRACE_SECONDS * 1000)),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        # A client that has vanished without a word answers no ping, and its connection ends.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ]
    return aio.server(interceptors=[interceptor], options=options)
