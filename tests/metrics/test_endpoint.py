"""The operator's port: HTTP, for a few at a time."""

import socket
import threading
import time
import urllib.error
from collections.abc import Iterator

import pytest

from backend.metrics.endpoint import MOST_SCRAPES, EndpointError, MetricsEndpoint
from tests.metrics.scraping import get


@pytest.fixture
def url() -> Iterator[str]:
    endpoint = MetricsEndpoint("127.0.0.1", 0, lambda accept: ("text/plain", b"told 1\n"))
    yield endpoint.start()
    endpoint.close()


def test_the_path_alone_is_served(url: str) -> None:
    assert get(url) == get(f"{url}?x=1") == "told 1\n"
    for other in (url.removesuffix("/metrics"), f"{url}/x", url.replace("/metrics", "/../metrics")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(other)
        assert refused.value.code == 404
        refused.value.close()


def test_clients_that_say_nothing_take_no_more_than_the_places_that_there_are(url: str) -> None:
    host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
    before = threading.active_count()
    silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(MOST_SCRAPES + 4)]
    try:
        # Connections are taken in their order: the last are closed at once.
        assert all(one.recv(1) == b"" for one in silent[MOST_SCRAPES:])
        assert threading.active_count() <= before + MOST_SCRAPES
    finally:
        for one in silent:
            one.close()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            assert get(url) == "told 1\n"
            return
        except (urllib.error.URLError, ConnectionError):  # their places are not free yet
            time.sleep(0.02)
    raise AssertionError("their places stay taken")


def test_a_client_that_says_a_little_at_a_time_has_no_longer_than_one_that_says_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.metrics.endpoint.CLIENT_SECONDS", 0.3)
    host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
    with socket.create_connection((host, int(port)), timeout=0.05) as drip:
        drip.sendall(b"GET /metrics HTTP/1.0\r\n")
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                drip.sendall(b"X: y\r\n")
                if drip.recv(1) == b"":
                    return
            except TimeoutError:  # it is listened to yet
                continue
            except ConnectionError:
                return
    raise AssertionError("it keeps its place")


def test_a_scrape_that_fails_costs_that_scrape_alone() -> None:
    answers = iter([ValueError("no"), ("text/plain", b"told 2\n")])

    def answer(accept: str) -> tuple[str, bytes]:
        given = next(answers)
        if isinstance(given, ValueError):
            raise given
        return given

    endpoint = MetricsEndpoint("127.0.0.1", 0, answer)
    url = endpoint.start()
    try:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(url)
        assert get(url) == "told 2\n"
    finally:
        endpoint.close()


def test_a_port_that_is_taken_is_one_sentence(url: str) -> None:
    port = int(url.rsplit(":", 1)[1].partition("/")[0])
    with pytest.raises(EndpointError, match=rf"cannot serve metrics on 127\.0\.0\.1 port {port}: ") as taken:
        MetricsEndpoint("127.0.0.1", port, lambda accept: ("", b"")).start()
    assert taken.value.in_use
    with pytest.raises(EndpointError) as foreign:
        MetricsEndpoint("192.0.2.1", 0, lambda accept: ("", b"")).start()
    assert not foreign.value.in_use
