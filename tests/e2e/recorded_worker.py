"""The worker, telling what it asks of its disk: `python -m tests.e2e.recorded_worker FILE [the worker's arguments]`.

FILE gets a line for each call that makes a file of the prompt cache, in their order: `create FD NAME`, `write FD`,
`sync FD`, `rename NAME FD NEW`, where FD of a folder is the folder's path.
"""

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.__main__ import main
from mlx_cache.disk.system import System


def path_of(fd: int) -> str:
    """Where an open file or folder is."""
    if sys.platform == "darwin":
        return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{fd}")


def record(file: Path) -> None:
    """Have every call of every `System` told."""
    told = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    write, create, sync, rename = System.write, System.create, System.sync, System.rename

    def tell(*words: object) -> None:
        os.write(told, (" ".join(map(str, words)) + "\n").encode())

    def place(fd: int) -> object:
        path = path_of(fd)
        return path if Path(path).is_dir() else fd

    def told_write(self: System, fd: int, buffers: Sequence[Any]) -> int:
        tell("write", fd)
        return write(self, fd, buffers)

    def told_create(self: System, folder: int, name: str) -> int:
        fd = create(self, folder, name)
        tell("create", fd, name)
        return fd

    def told_sync(self: System, fd: int) -> None:
        sync(self, fd)
        tell("sync", place(fd))

    def told_rename(self: System, source_folder: int, source: str, folder: int, name: str) -> None:
        rename(self, source_folder, source, folder, name)
        tell("rename", source, place(folder), name)

    System.write, System.create, System.sync, System.rename = told_write, told_create, told_sync, told_rename  # type: ignore[method-assign]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    main(sys.argv[2:])
