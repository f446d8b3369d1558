"""What the tests of the disk share: a codec for fake caches, a system that fails on demand, tiers on a directory."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_cache import PromptCache
from mlx_cache.blocks import Layout, State, UnsupportedLayer
from mlx_cache.disk import DiskTier
from mlx_cache.disk.codec import Bytes, Part, Segment
from mlx_cache.disk.format import BadFile
from mlx_cache.disk.system import System
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload


class FakeCodec:
    """Entries of fake caches as JSON; sizes differ from what the layout says, which nothing may rely on."""

    def keeps(self, layout: Layout) -> bool:
        return True

    def pack(self, layout: Layout, segments: Sequence[Segment], state: State | None) -> tuple[dict[str, Any], Bytes]:
        entries = [
            [e for p in s.pieces for e in p.block.data[p.start - p.block.start : p.end - p.block.start]]
            for s in segments
        ]
        body = json.dumps([entries, state.data if state is not None else None]).encode()
        told = [[s.group, s.first, s.end] for s in segments]
        table = {"layout": layout.detail, "segments": told, "nbytes": len(body)}
        return table, np.frombuffer(body, np.uint8)

    def begin(self, template: Sequence[Any], table: dict[str, Any], length: int, room: int) -> FakeFilling:
        cache = template[0]
        if not isinstance(cache, FakeCache):
            raise UnsupportedLayer(type(cache).__name__)
        if table.get("layout") != cache.layout.detail:
            raise BadFile("made for other layer caches")
        return FakeFilling(cache.layout, length)


class FakeFilling:
    def __init__(self, layout: Layout, length: int) -> None:
        self._layout, self._length = layout, length
        self._groups: list[dict[int, Any]] = [{} for _ in layout.groups]
        self._state: Any = None

    def parts(self, table: dict[str, Any]) -> list[Part]:
        def take(piece: Bytes) -> None:
            entries, state = json.loads(piece.tobytes())
            for (group, first, end), told in zip(table["segments"], entries, strict=True):
                assert len(told) == end - first
                self._groups[group] |= {first + i: _entry(e) for i, e in enumerate(told)}
            self._state = self._state or (state and [_entry(e) for e in state])

        return [Part(table["nbytes"], take)]

    def finish(self) -> list[Any]:
        groups = []
        for group, held in zip(self._layout.groups, self._groups, strict=True):
            wanted = range(max(0, self._length - group.reach), self._length)
            if any(i not in held for i in wanted):
                raise BadFile("tokens are missing")
            groups.append([held[i] for i in wanted])
        if self._layout.has_state and self._state is None:
            raise BadFile("a state is missing")
        return [FakeCache(self._layout, "", [], groups, self._state)]


def _entry(told: Any) -> Any:
    return told[0], tuple(told[1])


class FaultySystem(System):
    """Calls `before(call, number)` before each call, where it may raise or wait; `short` does little at a time."""

    def __init__(self, before: Callable[[str, int], None] = lambda call, number: None, *, short: bool = False) -> None:
        self.before, self.short = before, short
        self.counts: dict[str, int] = {}
        self._guard = threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name not in vars(System):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            with self._guard:
                self.counts[name] = self.counts.get(name, 0) + 1
                number = self.counts[name]
            self.before(name, number)
            return found(*arguments, **options)

        return call

    def read(self, fd: int, buffers: Sequence[Any]) -> int:
        return os.readv(fd, [buffers[0][:1000]]) if self.short else os.readv(fd, buffers)

    def write(self, fd: int, buffers: Sequence[Any]) -> int:
        return os.write(fd, buffers[0][:1000]) if self.short else os.writev(fd, buffers)


def failing(call: str, error: int = errno.ENOSPC, *, at: int = 1, times: int = 1 << 30) -> Callable[[str, int], None]:
    """Fails a system call from its `at`-th use on, so many times."""

    def before(name: str, number: int) -> None:
        if name == call and at <= number < at + times:
            raise OSError(error, os.strerror(error))

    return before


class Clock:
    """A time that stands until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def tier(path: Path, **options: Any) -> DiskTier:
    """An open tier of fake caches: blocks of four tokens, unpaced."""
    defaults = {"max_bytes": 1 << 30, "block_tokens": 4, "bytes_per_second": None, "codec": FakeCodec()}
    made = DiskTier(path, **(defaults | options))
    made.open()
    return made


def over(disk: DiskTier, **options: Any) -> PromptCache:
    """A cache of fake caches over a tier."""
    return PromptCache(**({"payload": FakePayload(), "block_tokens": 8, "disk": disk} | options))


def put(cache: PromptCache, tokens: Sequence[int], layout: str = "plain", space: str = "m", **options: Any) -> None:
    """Store what a model would have left."""
    done = cache.insert(space, list(tokens), FakeCache.after(LAYOUTS[layout], space, list(tokens)), **options)
    assert done.refusal is None, done


def template(layout: str = "plain") -> list[Any]:
    """Empty fake caches of a layout."""
    return FakeCache.after(LAYOUTS[layout], "", [])


def files(path: Path) -> list[Path]:
    """The files of entries in a directory, by name."""
    return sorted(p for p in path.glob("v1/*/*/*") if not p.name.startswith(".tmp"))


def temporaries(path: Path) -> list[Path]:
    """What unfinished writing has left."""
    return list(path.rglob(".tmp-*"))
