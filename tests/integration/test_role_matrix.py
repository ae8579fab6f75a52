"""Every RPC of all services over loopback, called without a token, with a wrong one, and in each role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from servicekit.rpc.auth import Tokens
from servicekit.rpc.interceptor import ServerInterceptor
from servicekit.rpc.server import open_server
from tests.unit.servicekit.test_auth import ALL, services

TOKENS = {"reader": "r", "writer": "w", "operator": "o"}
METHODS = [method for service in services() for method in service.methods]
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


def handlers() -> list[grpc.GenericRpcHandler]:
    """Each method answers with an empty message."""

    async def one(_request: Any, _context: Any) -> bytes:
        return b""

    async def many(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b""

    made = []
    for service in services():
        methods = {}
        for method in service.methods:
            asked = "stream" if method.client_streaming else "unary"
            answers = "stream" if method.server_streaming else "unary"
            make = getattr(grpc, f"{asked}_{answers}_rpc_method_handler")
            methods[method.name] = make(many if method.server_streaming else one, request_deserializer=bytes)
        made.append(grpc.method_handlers_generic_handler(service.full_name, methods))
    return made


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    (folder / "tokens").write_text("".join(f"{token} of-{role} {role}\n" for role, token in TOKENS.items()))
    names = [service.full_name for service in services()]
    server = open_server(ServerInterceptor(Tokens(str(folder / "tokens"), ALL)), names)
    server.add_generic_rpc_handlers(handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def answer(channel: grpc.aio.Channel, method: MethodDescriptor, token: str) -> grpc.StatusCode:
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(path)(iter([b""]) if method.client_streaming else b"", metadata=metadata, timeout=60)
    if method.server_streaming:
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("caller", ["nobody", "a stranger", *TOKENS])
async def test_each_role_may_call_what_its_proto_says_and_nobody_else_anything(caller: str, tmp_path: Path) -> None:
    roles = list(TOKENS)
    async with serving(tmp_path) as channel:
        for method in METHODS:
            needed = ALL[f"{method.containing_service.full_name}/{method.name}"]
            found = await answer(channel, method, TOKENS.get(caller, "wrong" if caller == "a stranger" else ""))
            if caller not in roles:
                assert found == UNKNOWN, method.full_name
            else:
                expected = grpc.StatusCode.OK if roles.index(caller) + 1 >= needed else DENIED
                assert found == expected, f"{method.full_name} as {caller}"
    assert len(METHODS) > 40
