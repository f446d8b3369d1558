"""Which rank this process is, and of how many: from the environment that `mlx-worker ranks` and `mlx.launch` set."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SIZE: Final = "MLX_WORKER_RANKS"
BACKEND: Final = "MLX_WORKER_RANKS_BACKEND"
CONTROL: Final = "MLX_WORKER_RANKS_CONTROL"
TOKEN: Final = "MLX_WORKER_RANKS_TOKEN"
LAUNCHER: Final = "MLX_WORKER_RANKS_LAUNCHER"
# What mlx.launch sets, for a rank by itself and under mpirun.
RANK: Final = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
BACKENDS: Final = ("ring", "mpi", "nccl", "jaccl", "jaccl-ring")


class BadWorld(Exception):
    """The environment names ranks, but not whole; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The ranks of one worker.

    Attributes:
        rank: This process's; 0 serves.
        backend: How tensors go from rank to rank; a word of MLX's.
        control: Host and port where rank 0 listens for the others.
        token: What a rank shows there.
        launcher: The process that started the ranks, where it is on this machine; else 0.
    """

    rank: int
    size: int
    backend: str
    control: tuple[str, int]
    token: str
    launcher: int = 0


def world_of(environment: Mapping[str, str]) -> World | None:
    """The ranks that this process is one of; None where it is alone.

    Raises:
        BadWorld: A variable is missing or wrong.
    """
    if not environment.get(SIZE):
        return None
    size, rank = _number(environment, SIZE), next((_number(environment, one) for one in RANK if one in environment), -1)
    if size < 2 or not 0 <= rank < size:
        raise BadWorld(f"{SIZE}: rank {rank} of {size} is none; start the ranks with mlx-worker ranks")
    backend = environment.get(BACKEND, "")
    if backend not in BACKENDS:
        raise BadWorld(f"{BACKEND}: must be one of {', '.join(BACKENDS)}, is {backend!r}")
    host, _, port = environment.get(CONTROL, "").rpartition(":")
    if not host or not port.isdigit():
        raise BadWorld(f"{CONTROL}: must be HOST:PORT, is {environment.get(CONTROL, '')!r}")
    if not environment.get(TOKEN):
        raise BadWorld(f"{TOKEN}: is empty")
    return World(
        rank=rank,
        size=size,
        backend=backend,
        control=(host, int(port)),
        token=environment[TOKEN],
        launcher=_here(environment.get(LAUNCHER, "")),
    )


def _here(launcher: str) -> int:
    host, _, process = launcher.rpartition(":")
    return int(process) if host == socket.gethostname() and process.isdecimal() else 0


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise BadWorld(f"{name}: must be a number, is {environment[name]!r}") from None
