"""A payload without MLX: the entry of a token is its whole prefix and its namespace, so any mix-up shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_cache.blocks import EVERYTHING, Block, Group, Layout, Restorable, State, UnsupportedLayer

FULL = Group("full", EVERYTHING, 3)
WINDOW = Group("window", 3, 2)
STATE_BYTES = 5

LAYOUTS = {
    "plain": Layout((FULL,), False, "plain"),
    "hybrid": Layout((FULL,), True, "hybrid"),
    "window": Layout((FULL, WINDOW), False, "window"),
    "window-hybrid": Layout((WINDOW,), True, "window-hybrid"),
    "state": Layout((), True, "state"),
}

Entry = tuple[str, tuple[int, ...]]


def entry(space: str, tokens: Sequence[int], position: int) -> Entry:
    """What a model would hold for one position."""
    return space, tuple(tokens[: position + 1])


@dataclass
class FakeCache:
    """The only layer of a fake prompt cache: what it would hold after `tokens`."""

    layout: Layout
    space: str
    tokens: list[int]
    groups: list[list[Entry]] = field(default_factory=list)
    state: list[Entry] | None = None

    @classmethod
    def after(cls, layout: Layout, space: str, tokens: Sequence[int]) -> list[Any]:
        """A prompt cache as a model would have filled it."""
        n = len(tokens)
        groups = [[entry(space, tokens, i) for i in range(max(0, n - group.reach), n)] for group in layout.groups]
        state = [entry(space, tokens, n - 1)] if layout.has_state and n else None
        return [cls(layout, space, list(tokens), groups, state)]


class FakePayload:
    """See Payload. `during_copy` runs while no lock is held, where another thread could come in."""

    def __init__(self, during_copy: Callable[[], None] = lambda: None) -> None:
        self.during_copy = during_copy
        self.copied_tokens = 0

    def offset(self, prompt_cache: Sequence[Any]) -> int | None:
        cache = prompt_cache[0]
        if not isinstance(cache, FakeCache):
            raise UnsupportedLayer(type(cache).__name__)
        return len(cache.tokens) if cache.layout.groups or not cache.tokens else None

    def layout(self, prompt_cache: Sequence[Any]) -> Layout:
        return prompt_cache[0].layout

    def available(self, prompt_cache: Sequence[Any], layout: Layout) -> list[int]:
        cache = prompt_cache[0]
        return [len(cache.tokens) - len(entries) for entries in cache.groups]

    def state_nbytes(self, prompt_cache: Sequence[Any], layout: Layout) -> int:
        return STATE_BYTES

    def copy_blocks(
        self, prompt_cache: Sequence[Any], layout: Layout, ranges: list[list[tuple[int, int]]]
    ) -> list[list[Block]]:
        self.during_copy()
        cache, out = prompt_cache[0], []
        for group, entries, wanted in zip(layout.groups, cache.groups, ranges, strict=True):
            first = len(cache.tokens) - len(entries)
            blocks = []
            for start, end in wanted:
                assert first <= start < end <= len(cache.tokens)
                data = entries[start - first : end - first]
                self.copied_tokens += end - start
                blocks.append(Block(start, end, len(data) * group.bytes_per_token, data))
            out.append(blocks)
        return out

    def copy_state(self, prompt_cache: Sequence[Any], layout: Layout) -> State:
        return State(STATE_BYTES, 1, list(prompt_cache[0].state))

    def cut(self, layout: Layout, cuts: list[tuple[Block, int]]) -> list[tuple[Block, Block]]:
        out = []
        for block, at in cuts:
            k, per_token = at - block.start, block.nbytes // (block.end - block.start)
            left, right = block.data[:k], block.data[k:]
            out.append(
                (
                    Block(block.start, at, k * per_token, left),
                    Block(at, block.end, len(right) * per_token, right),
                )
            )
        return out

    def restore(self, layout: Layout, restorable: Restorable, room: int, *, as_stored: bool = False) -> list[Any]:
        self.during_copy()
        groups = [
            [e for p in pieces for e in p.block.data[p.start - p.block.start : p.end - p.block.start]]
            for pieces in restorable.pieces
        ]
        state = list(restorable.state.data) if restorable.state is not None else None
        return [FakeCache(layout, "", [], groups, state)]
