"""Workers that are killed, and workers that share a directory. A program of its own: it forks, and knows no MLX.

    python -m tests.mlx_cache.disk.crash kills DIRECTORY [--times 200] [--planted]
    python -m tests.mlx_cache.disk.crash share DIRECTORY [--seconds 60]

Prints one JSON line. Bodies are written 16 KiB at a time, so that a kill finds many moments in the middle of a file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_cache import PromptCache
from mlx_cache.blocks import Layout, State
from mlx_cache.disk import DiskTier
from mlx_cache.disk.codec import Bytes, Segment
from mlx_cache.disk.files import Files
from mlx_cache.disk.format import Header, encode
from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import FakeCodec, template, temporaries
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_content

LAYOUT_NAMES = ("plain", "hybrid")
MAX_BYTES = 3 << 20


class SlowSystem(System):
    """Writes a little at a time."""

    def write(self, fd: int, buffers: Sequence[Any]) -> int:
        return os.write(fd, buffers[0][: 16 << 10])


class LargeCodec(FakeCodec):
    """Bodies of some 60 KiB."""

    def pack(self, layout: Layout, segments: Sequence[Segment], state: State | None) -> tuple[dict[str, Any], Bytes]:
        table, body = super().pack(layout, segments, state)
        body = np.concatenate([body, np.full((60 << 10) - len(body), 32, np.uint8)])
        return table | {"nbytes": len(body)}, body


def opened(path: Path, **options: Any) -> DiskTier:
    defaults = {"max_bytes": MAX_BYTES, "block_tokens": 4, "bytes_per_second": None, "rescan_seconds": 0.2}
    disk = DiskTier(path, **(defaults | {"codec": LargeCodec(), "system": SlowSystem()} | options))
    disk.open()
    return disk


def sequence(number: int) -> list[int]:
    """One of many conversations that share beginnings."""
    dice = random.Random(number)
    return [number % 3, *range(10, 13), number % 7, *[dice.randrange(100) for _ in range(number % 19)]]


def store(cache: PromptCache, number: int) -> None:
    tokens, layout = sequence(number), LAYOUT_NAMES[number % 2]
    cache.insert(layout, tokens, FakeCache.after(LAYOUTS[layout], layout, tokens))


def check_read(disk: DiskTier, number: int) -> int:
    """What comes back is what was stored; how many tokens."""
    tokens, layout = [*sequence(number), 1000], LAYOUT_NAMES[number % 2]
    fetched = disk.read(layout, tokens, template(layout))
    if fetched.caches is not None:
        check_content(fetched.caches, layout, tokens[: fetched.length])
    return fetched.length


def forked(work: Callable[[], None]) -> int:
    """A process that does this and ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - a process of its own: its status tells
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def write_forever(path: Path, seed: int) -> None:
    disk = opened(path)
    cache = PromptCache(payload=FakePayload(), block_tokens=8, disk=disk)
    dice = random.Random(seed)
    while True:
        store(cache, dice.randrange(400))
        cache.trim_to(n_bytes=0)
        disk.flush(1)


def write_in_place(self: Files, header: Header, body: Bytes) -> int:
    """The bug that the kills have to find: a file is under its name before it is whole."""
    head = encode(replace(header, crc=zlib.crc32(body.data), body_nbytes=body.nbytes), self._chain)
    with self._directory.of(header.name, make=True) as folder:
        fd = os.open(header.name.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
        for start in range(0, body.nbytes, 16 << 10):
            os.write(fd, (head if start == 0 else b"") + body[start : start + (16 << 10)].tobytes())
        os.close(fd)
    return len(head) + body.nbytes


def listing(path: Path) -> list[tuple[str, int, int]]:
    found = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()]
    return sorted(found)


def wait_for_files(path: Path, count: int = 5) -> None:
    """Until so many have been written that were not there before, however busy the machine is."""
    before, until = {p.name for p in path.rglob("*.kv")}, time.monotonic() + 60
    while len({p.name for p in path.rglob("*.kv")} - before) < count:
        assert time.monotonic() < until
        time.sleep(0.005)


def kills(path: Path, times: int, seed: int) -> dict[str, int]:
    """Kill two writers again and again; what the directory holds after each time."""
    dice, out = random.Random(seed), {"kills": 0, "bad": 0, "left": 0, "swept": 0, "changed": 0, "files": 0, "hits": 0}
    for number in range(times):
        children = [forked(lambda s=number * 2 + i: write_forever(path, s)) for i in range(2)]
        if number % 2 == 0:  # else it may be while they open it
            wait_for_files(path)
        time.sleep(dice.uniform(0.01, 0.12))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        out["kills"] += len(children)
        out["swept"] += len(temporaries(path))
        disk = opened(path)
        out["bad"] += len(list(disk.verify(quarantine=True)))
        out["left"] += len(temporaries(path))
        out["hits"] += sum(check_read(disk, dice.randrange(400)) > 0 for _ in range(60))
        out["bad"] += disk.stats()["quarantined"] if not out["bad"] else 0
        disk.close(10)
        before = listing(path)
        again = opened(path)
        out["files"] = again.stats()["files"]
        again.close(10)
        out["changed"] += listing(path) != before
    return out


def share(path: Path, seconds: float, seed: int) -> dict[str, int]:
    """Two workers that read, write, evict and forget at once."""
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        disk = opened(path)
        cache = PromptCache(200, payload=FakePayload(), block_tokens=8, disk=disk, max_bytes=600)
        dice, done, hits = random.Random(seed + number), 0, 0
        while time.monotonic() < until or done < 100:
            what, done = dice.random(), done + 1
            if what < 0.5:
                store(cache, dice.randrange(400))
            elif what < 0.97:
                hits += check_read(disk, dice.randrange(400)) > 0
            elif what < 0.98:
                disk.forget(LAYOUT_NAMES[number], sequence(dice.randrange(400)))
            elif what < 0.982:
                disk.clear(LAYOUT_NAMES[number])
            else:
                cache.fetch(LAYOUT_NAMES[0], [*sequence(2 * dice.randrange(200)), 1000])
            time.sleep(0)
        cache.flush(2)
        stats = disk.stats()
        disk.close(10)
        assert stats["quarantined"] == 0, stats
        (path.parent / f"done-{number}").write_text(f"{done} {hits}")

    children = [forked(lambda n=number: work(n)) for number in range(2)]
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    told = [(path.parent / f"done-{n}").read_text().split() for n in range(2) if not failed]
    disk = opened(path)
    out = {
        "failed": failed, "calls": sum(int(t[0]) for t in told), "hits": sum(int(t[1]) for t in told),
        "bad": len(list(disk.verify())), "left": len(temporaries(path)), "bytes": disk.stats()["bytes"],
        "max_bytes": MAX_BYTES,
    }  # fmt: skip
    disk.close(10)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "share"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", action="store_true")
    options = parser.parse_args()
    if options.planted:
        Files.write = write_in_place  # type: ignore[method-assign]
    if options.what == "kills":
        out = kills(options.directory, options.times, options.seed)
    else:
        out = share(options.directory, options.seconds, options.seed)
    assert "mlx.core" not in sys.modules
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
