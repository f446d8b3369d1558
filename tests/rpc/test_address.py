"""Addresses, and the right to a unix socket."""

import os
import socket
from pathlib import Path

import pytest

from backend.rpc.address import MAX_SOCKET_PATH, Address, AddressError, SocketClaim, max_socket_path
from tests import observed


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("127.0.0.1:0", "127.0.0.1:9"),
        ("localhost:5", "localhost:9"),
        ("[::1]:5", "[::1]:9"),
        ("0.0.0.0:5", "0.0.0.0:9"),
        ("unix:/run/x", "unix:/run/x"),
        ("unix:///run/x", "unix:/run/x"),
    ],
)
def test_an_address_is_read_and_said_with_the_port_it_got(text: str, bound: str) -> None:
    assert Address.parse(text).on_port(9) == bound


def test_a_relative_socket_path_is_made_absolute() -> None:
    assert Address.parse("unix:x").path == Path.cwd() / "x"


@pytest.mark.parametrize("text", ["", "127.0.0.1", "host:", "host:x", "host:65536", "host:-1", "unix:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("host:1", False),
        (":1", False),
    ],
)
def test_only_loopback_and_sockets_are_local(text: str, local: bool) -> None:
    assert Address.parse(text).is_local is local


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def test_the_socket_of_a_server_that_is_gone_is_removed(socket_folder: Path) -> None:
    listen(socket_folder / "s").close()
    assert (socket_folder / "s").exists()
    claim = SocketClaim(socket_folder / "s")
    claim.take()
    assert not (socket_folder / "s").exists()
    claim.release()


def test_the_socket_of_a_living_server_is_left_alone(socket_folder: Path) -> None:
    with listen(socket_folder / "s"), pytest.raises(AddressError, match="in use"):
        SocketClaim(socket_folder / "s").take()
    assert (socket_folder / "s").exists()


def test_two_workers_cannot_claim_one_socket(socket_folder: Path) -> None:
    claim = SocketClaim(socket_folder / "s")
    claim.take()
    with pytest.raises(AddressError, match="in use"):
        SocketClaim(socket_folder / "s").take()
    claim.release()
    again = SocketClaim(socket_folder / "s")
    again.take()
    again.release()


def test_a_regular_file_is_left_alone(socket_folder: Path) -> None:
    (socket_folder / "s").write_text("precious")
    with pytest.raises(AddressError, match="not a socket"):
        SocketClaim(socket_folder / "s").take()
    assert (socket_folder / "s").read_text() == "precious"


def test_a_lock_file_that_is_a_link_is_refused(socket_folder: Path) -> None:
    (socket_folder / "s.lock").symlink_to(socket_folder / "elsewhere")
    with pytest.raises(AddressError):
        SocketClaim(socket_folder / "s").take()
    assert not (socket_folder / "elsewhere").exists()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    assert (max_socket_path("linux"), max_socket_path("darwin")) == (107, 103)
    with pytest.raises(AddressError, match="longer than"):
        SocketClaim(tmp_path / ("x" * MAX_SOCKET_PATH)).take()


def test_a_missing_directory_is_made_for_us_alone(socket_folder: Path) -> None:
    claim = SocketClaim(socket_folder / "d" / "s")
    claim.take()
    assert (socket_folder / "d").stat().st_mode & 0o777 == 0o700
    claim.release()


def test_a_directory_that_others_can_write_is_refused(socket_folder: Path) -> None:
    shared = socket_folder / "d"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(AddressError, match="writable by others"):
        SocketClaim(shared / "s").take()


def test_a_directory_that_is_a_file_is_refused_with_the_reason(socket_folder: Path) -> None:
    (socket_folder / "f").write_text("")
    with pytest.raises(AddressError, match="socket directory"):
        SocketClaim(socket_folder / "f" / "s").take()


def test_a_refused_claim_leaves_no_descriptor_open(socket_folder: Path) -> None:
    (socket_folder / "s").write_text("")
    before = observed.descriptors(os.getpid()).total()
    with pytest.raises(AddressError):
        SocketClaim(socket_folder / "s").take()
    assert observed.descriptors(os.getpid()).total() == before
