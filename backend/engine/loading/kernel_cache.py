"""Where MLX keeps the kernels that it has compiled, and loads those that it finds.

MLX takes a directory under the system's temporary one, which a reboot empties and in which anybody could have put
other code. CUDA's, which take up to a minute for one model, go with the user's other caches. For a processor, where it
needs a C++ compiler, there is no other place: it is used if it is this user's alone.
"""

import contextlib
import os
import stat
from collections.abc import Mapping, MutableMapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "MLX_PTX_CACHE_DIR"
SHAPES_CHECK: Final = "MLX_ENABLE_CACHE_THRASHING_CHECK"


def allow_many_shapes(environment: MutableMapping[str, str]) -> None:
    """Have MLX drop what it prepared for shapes of long ago, and go on. Before it first computes.

    For CUDA it keeps what it has prepared for a shape: attention's plans, launches in one piece. It counts what it
    did not find since the process began, and by default raises for every new one after 512 plans, whatever was found
    meanwhile: a worker whose prompts have many lengths would fail all further ones.
    """
    environment.setdefault(SHAPES_CHECK, "0")


def keep_kernels(info: Mapping[str, Any], environment: MutableMapping[str, str]) -> None:
    """Name the directory in `environment`, unless it has one. Before the first kernel of the process is compiled.

    Args:
        info: `mx.device_info()`. Only CUDA's architectures begin with `sm_`; what was compiled for one does not run
            on another, and MLX's file names do not tell them apart.
    """
    architecture = str(info.get("architecture", ""))
    if VARIABLE in environment or not architecture.startswith("sm_"):
        return
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/nonexistent", ".cache"))
    if any(os.access(directory, os.W_OK) for directory in (base, os.path.dirname(base))):
        environment[VARIABLE] = str(Path(base, "mlx-worker", f"kernels-{version('mlx')}-{architecture}"))


# What a few kernels take, and the compiler beside them.
LEAST_ROOM = 16 << 20
# As the C++ library looks for it.
_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "TEMPDIR")


def why_no_cpu_kernels(environment: Mapping[str, str], *, user: int | None = None) -> str:
    """What forbids that MLX compiles kernels for the processor; empty where nothing does. Makes the directory.

    Args:
        user: Whose the directory must be; None is this process's user.
    """
    user = os.geteuid() if user is None else user
    place = next((environment[name] for name in _TEMPORARY if environment.get(name)), "/tmp")
    try:
        above = os.stat(place)
        if above.st_uid not in (0, user) or (_others_write(above) and not above.st_mode & stat.S_ISVTX):
            return f"{place}: others can change what is in it"
        for part in ("mlx", version("mlx"), "cpu"):
            place = os.path.join(place, part)
            _make(place)
            if not _is_made_ours(place, user):
                return f"{place}: not this user's alone"
        if not os.access(place, os.W_OK):
            return f"{place}: not writable"
        room = os.statvfs(place)
    except OSError as error:
        return f"{place}: {error.strerror}"
    return "" if room.f_bavail * room.f_frsize >= LEAST_ROOM else f"{place}: less than {LEAST_ROOM >> 20} MiB free"


def _make(place: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)


def _is_made_ours(place: str, user: int) -> bool:
    """Whether nobody else can change the directory, or has: MLX makes one that a usual umask lets a group write to."""
    found = os.lstat(place)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        return False
    if not _others_write(found):
        return True
    os.chmod(place, stat.S_IMODE(found.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    with os.scandir(place) as entries:
        return all(entry.stat(follow_symlinks=False).st_uid == user for entry in entries)


def _others_write(found: os.stat_result) -> bool:
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
