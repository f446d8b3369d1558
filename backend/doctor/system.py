"""What the system gives a process: open files, disks, a port."""

import errno
import os
import resource
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from backend.config import CacheConfig, MetricsConfig, ServerConfig
from backend.doctor.finding import Row, bad, ok, warn
from backend.process.open_files import WANTED
from backend.rpc.address import Address, AddressError
from backend.terminal.showing import count, size

# Less, and the first downloads or written prefixes fail.
_LEAST_FREE: Final = 1 << 30


def open_files_row(limits: tuple[int, int] | None = None) -> Row:
    """How many files a worker may open."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= WANTED:
        return ok("open files", f"limit {_limit(soft)}")
    if hard == resource.RLIM_INFINITY or hard >= WANTED:
        return ok("open files", f"limit {_limit(soft)}, raised to {count(WANTED)} at the start")
    advice = f"Many clients need {count(WANTED)}: raise the hard limit (ulimit -Hn, LimitNOFILE=)."
    return warn("open files", f"hard limit {_limit(hard)}", advice)


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else count(value)


def cache_row(cache: CacheConfig) -> Row:
    """The prompt cache's directory."""
    name = "prompt cache"
    if not cache.directory:
        return ok(name, "in memory alone (--prompt-cache-dir keeps it on disk)")
    directory = Path(cache.directory).absolute()
    there = _existing(directory)
    if directory.exists():
        about = directory.stat()
        if not stat.S_ISDIR(about.st_mode):
            return bad(name, f"{directory} is no directory", "Name another one.")
        if about.st_uid != os.geteuid():
            return bad(name, f"{directory} belongs to another user", "Name one that the worker's user owns.")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return bad(name, f"{directory} can be written by others", f"Close it: chmod go-w {directory}.")
    why = _unwritable(there)
    if why:
        return bad(name, f"{there}: {why}", "Name a directory that the worker's user may write to.")
    return _space(name, directory, there, wanted=cache.disk_bytes, of="--prompt-cache-disk-bytes")


def hub_cache_row(environment: Mapping[str, str]) -> Row:
    """Where downloaded models go."""
    home = environment.get("HF_HOME") or str(Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    directory = Path(environment.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser().absolute()
    there = _existing(directory)
    why = _unwritable(there)
    if why:
        return warn("downloads", f"{there}: {why}", "Models cannot be downloaded there: set HF_HOME to another place.")
    return _space("downloads", directory, there, wanted=0, of="")


def _existing(directory: Path) -> Path:
    return next(folder for folder in (directory, *directory.parents) if folder.exists())


def _unwritable(directory: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _space(name: str, directory: Path, there: Path, *, wanted: int, of: str) -> Row:
    free = shutil.disk_usage(there).free
    told = f"{directory}, {size(free)} free"
    if free < _LEAST_FREE:
        return bad(name, told, "The disk is full: make room, or name another place.")
    if free < wanted:
        return warn(name, told, f"Less than {of} ({size(wanted)}): lower that, or make room.")
    return ok(name, told)


def address_row(server: ServerConfig) -> Row:
    """Whether a worker can listen where it would. Nothing is made or removed."""
    name = "address"
    try:
        address = Address.parse(server.address)
    except AddressError as error:
        return bad(name, str(error), "Give --addr as HOST:PORT or unix:PATH.")
    if not address.is_local and not server.token:
        return bad(name, f"{address.target}: others can reach it", "Set LOCALAI_GRPC_AUTH_TOKEN, or take 127.0.0.1.")
    if address.path is not None:
        return _socket_row(address.path)
    why = _unbindable(address.host, address.port)
    if why:
        advice = "Stop what listens there, perhaps a worker that runs already, or take another --addr."
        return bad(name, f"{address.target}: {why}", advice)
    return ok(name, f"{address.target} is free")


def tls_row(server: ServerConfig) -> Row:
    """Whether certificate and key are there and belong together."""
    name, certificate, key = "TLS", server.tls_certificate, server.tls_key
    if not certificate:
        if key:
            return bad(name, f"{key} without a certificate", "Give --tls-certificate too.")
        return _without_tls(name, server)
    if not key:
        return bad(name, f"{certificate} without a key", "Give --tls-key too.")
    try:
        for file in (certificate, key):
            Path(file).read_bytes()
        # A key with a password is refused, and nobody is asked for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        advice = "Give a certificate and the key it was made with, both PEM, the key without a password."
        return bad(name, f"{certificate} with {key}: {(error.reason or 'not PEM').lower().replace('_', ' ')}", advice)
    except OSError as error:
        return bad(name, f"{error.filename}: {error.strerror}", "Name files that the worker's user may read.")
    return ok(name, certificate)


def _without_tls(name: str, server: ServerConfig) -> Row:
    try:
        is_local = Address.parse(server.address).is_local
    except AddressError:  # which another row tells
        is_local = True
    if server.require_tls and not is_local:
        return bad(name, "off, and --require-tls is set", "Give --tls-certificate and --tls-key.")
    return ok(name, "off (--tls-certificate and --tls-key)")


def metrics_row(metrics: MetricsConfig) -> Row:
    """Whether a worker can serve metrics where it would."""
    name = "metrics"
    if metrics.port is None:
        return ok(name, "not served (--metrics-port serves them)")
    where = f"{metrics.address} port {metrics.port or 'auto'}"
    why = _unbindable(metrics.address, metrics.port)
    if why == os.strerror(errno.EADDRINUSE):
        return warn(name, f"{where}: {why}", "A worker serves without; --metrics-port auto takes any free port.")
    if why:
        return bad(name, f"{where}: {why}", "Take another --metrics-port or --metrics-address.")
    return ok(name, f"{where} is free")


def _unbindable(host: str, port: int) -> str:
    """Why nothing can listen there; empty where something can."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As gRPC binds: what a connection has left behind does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _socket_row(path: Path) -> Row:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            taken = probe.connect_ex(str(path)) == 0
        except OSError as error:
            return bad("address", f"unix:{path}: {error}", "Take a shorter path.")
    if taken:
        return bad("address", f"unix:{path} is in use", "Stop what listens there, or take another --addr.")
    return ok("address", f"unix:{path} is free")
