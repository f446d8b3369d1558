"""The address that the server listens on, and the care that a unix socket takes."""

import errno
import fcntl
import ipaddress
import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path


def max_socket_path(platform: str) -> int:
    """Bytes of a unix socket's path at most: those in `sockaddr_un` less the closing zero."""
    return 107 if platform == "linux" else 103


MAX_SOCKET_PATH = max_socket_path(sys.platform)


class AddressError(Exception):
    """The server cannot listen there; the message is one line for whoever started it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, or the path of a unix socket.

    Attributes:
        target: As gRPC reads it.
        path: Of the unix socket, or None.
    """

    target: str
    path: Path | None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`host:port`, `[ipv6]:port`, `unix:path` or `unix:///path`.

        Raises:
            AddressError: It is none of these.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            path = path.removeprefix("//") if path.startswith("///") else path
            if not path:
                raise AddressError(f"address {text!r} has no path")
            absolute = Path.cwd() / path
            return cls(target=f"unix:{absolute}", path=absolute)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise AddressError(f"address {text!r} is not host:port or unix:path")
        return cls(target=text, path=None, host=host.strip("[]"), port=int(port))

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def on_port(self, port: int) -> str:
        """The address as bound: with the port that the system chose for port 0."""
        if self.path is not None:
            return self.target
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{port}"


class SocketClaim:
    """One process's right to a unix socket: a lock file beside it, held as long as the process lives.

    gRPC takes over the socket of a living server without an error, so the right is settled before it binds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Claim the path, and remove the socket of a server that is gone.

        Raises:
            AddressError: The path is too long, in use, not a socket, or in an unsafe directory.
        """
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            raise AddressError(f"socket path is longer than {MAX_SOCKET_PATH} bytes: {self._path}")
        self._prepare_directory()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._lock, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_stale()
        except OSError as error:
            self.release()
            raise AddressError(f"socket {self._path}: {_reason(error)}") from error
        except AddressError:
            self.release()
            raise

    def release(self) -> None:
        """Give the right back. The lock file stays: removing it would race with the next owner's claim."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _prepare_directory(self) -> None:
        directory = self._path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = directory.stat().st_mode
        except OSError as error:
            raise AddressError(f"socket directory {directory}: {_reason(error)}") from error
        # Whoever may write there could put a socket of their own in our place; the sticky bit prevents that.
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            raise AddressError(f"socket directory {directory} is writable by others; make it 0700")

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise AddressError(f"{self._path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(str(self._path)) not in (errno.ECONNREFUSED, errno.ENOENT):
                raise AddressError(f"socket {self._path}: address in use")
        self._path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EAGAIN, errno.EACCES) and isinstance(error, BlockingIOError):
        return "address in use"
    return error.strerror or str(error)
