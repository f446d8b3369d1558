"""How clients reach a worker."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from backend.client.channels import open_channel
from backend.client.connection import Connection
from backend.rpc.address import Address


def test_a_proxy_of_the_environment_is_not_asked_for_what_only_this_machine_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with open_channel(Connection(address=Address.parse(f"127.0.0.1:{port}"), token="")) as channel:
            grpc.channel_ready_future(channel).result(60)
    finally:
        server.stop(None)
