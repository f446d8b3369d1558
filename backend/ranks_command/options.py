"""The arguments of `mlx-worker ranks`."""

import argparse
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BACKENDS: Final = ("ring", "mpi", "nccl", "jaccl", "jaccl-ring")
DEFAULT_PORT: Final = 32322


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is started, and where.

    Attributes:
        hosts: As `mlx.launch --hosts` takes them; empty where a file has them.
        hostfile: As `mlx.launch --hostfile` takes it; None where there is none.
        repeat: Ranks of each host.
        size: Ranks in all.
        backend: How tensors go from rank to rank.
        control: Host and port where rank 0 listens for the others.
        port: `control`'s; the ring's begin behind it.
        python: The interpreter on every host; None is this one.
        is_local: All ranks are on this machine.
        worker: Arguments of the worker itself.
    """

    hosts: str
    hostfile: Path | None
    repeat: int
    size: int
    backend: str
    control: str
    port: int
    python: str | None
    is_local: bool
    worker: tuple[str, ...]


def parse_options(arguments: Sequence[str]) -> Options:
    """Options from arguments; a wrong one ends the process as argparse does, with code 2."""
    parser = _parser()
    given, worker = parser.parse_known_args(list(arguments))
    try:
        return _options(given, [one for one in worker if one != "--"])
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-worker ranks",
        allow_abbrev=False,
        description="Start one worker over several processes or machines with mlx.launch. All other arguments are the "
        "worker's; rank 0, on the first host, serves.",
    )
    parser.add_argument("--hosts", default="", help="comma-separated hosts, IP addresses for a ring")
    parser.add_argument("--hostfile", type=Path, help="mlx.launch's file of hosts; mlx.distributed_config writes one")
    parser.add_argument("--repeat-hosts", "-n", type=int, default=1, help="ranks on each host (default: 1)")
    parser.add_argument("--backend", choices=BACKENDS, help="default: what the file of hosts says, else ring")
    parser.add_argument(
        "--control-host", default="", help="address of rank 0 for the others (default: the first host's)"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"rank 0's for the others; the ring's follow ({DEFAULT_PORT})"
    )
    parser.add_argument("--python", help="the Python with mlx-worker on every host (default: this one)")
    return parser


def _options(given: Any, worker: list[str]) -> Options:
    if bool(given.hosts) == bool(given.hostfile):
        raise ValueError("one of --hosts and --hostfile must be given")
    names, backend = (given.hosts.split(","), "") if given.hosts else _file(given.hostfile)
    if given.hosts and (given.repeat_hosts < 1 or not all(names)):
        raise ValueError("--hosts: names no host, or --repeat-hosts is below 1")
    size = len(names) * (given.repeat_hosts if given.hosts else 1)
    if size < 2:
        raise ValueError("one rank is the worker itself: name two hosts at least, or --repeat-hosts")
    host = given.control_host or names[0]
    return Options(
        hosts=given.hosts,
        hostfile=given.hostfile,
        repeat=given.repeat_hosts,
        size=size,
        backend=given.backend or backend or "ring",
        control=f"{host}:{given.port}",
        port=given.port,
        python=given.python,
        is_local=all(_is_local(name) for name in names),
        worker=tuple(worker),
    )


def _file(path: Path) -> tuple[list[str], str]:
    """The address of each rank in a file of hosts, and the backend that it names."""
    try:
        data = json.loads(path.read_text())
        hosts = data["hosts"] if isinstance(data, dict) else data
        backend = data.get("backend", "") if isinstance(data, dict) else ""
        return [(host.get("ips") or [host["ssh"]])[0] for host in hosts], backend
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no file of hosts: {error}") from None


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
