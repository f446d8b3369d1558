"""TLS: who is served, and who is not."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.rpc.conftest import running_worker
from tests.rpc.test_server import refused

FOLDER = Path(__file__).parent / "certificates"
SERVER = {"tls_certificate": str(FOLDER / "server.pem"), "tls_key": str(FOLDER / "server.key")}


def credentials(root: str, own: str = "") -> grpc.ChannelCredentials:
    """A client that trusts `root` and shows its own certificate, if it has one."""
    pair = [(FOLDER / f"{own}{suffix}").read_bytes() for suffix in (".key", ".pem")] if own else [None, None]
    return grpc.ssl_channel_credentials((FOLDER / f"{root}.pem").read_bytes(), *pair)


async def code_of(address: str, how: grpc.ChannelCredentials | None, token: str = "") -> grpc.StatusCode:
    """How a Health ends."""
    secure = grpc.aio.secure_channel(address, how) if how else grpc.aio.insecure_channel(address)
    async with secure as channel:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            reply = await channel.unary_unary("/backend.Backend/Health")(b"", timeout=5, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code()
        assert pb.Reply.FromString(reply).message == b"OK"
        return grpc.StatusCode.OK


def with_server(loop: asyncio.Runner, test: Callable[[str], object], **config: str) -> None:
    async def main() -> None:
        async with running_worker(load=False, **SERVER, **config) as worker:
            await test(worker.address)  # type: ignore[misc]

    loop.run(main())


def test_a_client_that_trusts_the_certificate_is_served_and_no_other(loop: asyncio.Runner) -> None:
    async def test(address: str) -> None:
        assert await code_of(address, credentials("server")) is grpc.StatusCode.OK
        for other in (credentials("stranger"), None):
            assert await code_of(address, other) is grpc.StatusCode.UNAVAILABLE

    with_server(loop, test)


def test_where_clients_must_be_known_only_those_are_served_and_the_token_is_asked_too(loop: asyncio.Runner) -> None:
    async def test(address: str) -> None:
        assert await code_of(address, credentials("server", "client"), "t") is grpc.StatusCode.OK
        assert await code_of(address, credentials("server", "client")) is grpc.StatusCode.UNAUTHENTICATED
        for stranger in (credentials("server", "stranger"), credentials("server"), None):
            assert await code_of(address, stranger, "t") is grpc.StatusCode.UNAVAILABLE

    with_server(loop, test, tls_client_ca=str(FOLDER / "client.pem"), token="t")


@pytest.mark.parametrize(("config", "words"), [({}, "--tls-client-ca needs"), (SERVER, "/no/ca")])
def test_an_authority_that_cannot_be_used_is_an_address_error(
    loop: asyncio.Runner, config: dict[str, str], words: str
) -> None:
    assert words in refused(loop, "127.0.0.1:0", tls_client_ca="/no/ca", **config)
