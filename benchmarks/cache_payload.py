"""Payloads without arrays, for benchmarks of the index alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_cache.blocks import EVERYTHING, Block, Group, Layout, Restorable, State


class EmptyPayload:
    """Plain key/value layers of one byte a token and no data."""

    _layout = Layout((Group("kv", EVERYTHING, 1),), has_state=False)

    def offset(self, prompt_cache: Sequence[Any]) -> int | None:
        """See mlx_cache.blocks.Payload."""
        return prompt_cache[0]

    def layout(self, prompt_cache: Sequence[Any]) -> Layout:
        """See mlx_cache.blocks.Payload."""
        return self._layout

    def available(self, prompt_cache: Sequence[Any], layout: Layout) -> list[int]:
        """See mlx_cache.blocks.Payload."""
        return [0]

    def state_nbytes(self, prompt_cache: Sequence[Any], layout: Layout) -> int:
        """See mlx_cache.blocks.Payload."""
        return 0

    def copy_blocks(
        self, prompt_cache: Sequence[Any], layout: Layout, ranges: list[list[tuple[int, int]]]
    ) -> list[list[Block]]:
        """See mlx_cache.blocks.Payload."""
        return [[Block(start, end, end - start, None) for start, end in wanted] for wanted in ranges]

    def copy_state(self, prompt_cache: Sequence[Any], layout: Layout) -> State:
        """See mlx_cache.blocks.Payload."""
        raise NotImplementedError

    def cut(self, layout: Layout, cuts: list[tuple[Block, int]]) -> list[tuple[Block, Block]]:
        """See mlx_cache.blocks.Payload."""
        return [(Block(b.start, at, at - b.start, None), Block(at, b.end, b.end - at, None)) for b, at in cuts]

    def restore(self, layout: Layout, restorable: Restorable, room: int, *, as_stored: bool = False) -> list[Any]:
        """See mlx_cache.blocks.Payload."""
        return [restorable.length]


def layer(tokens: int) -> list[Any]:
    """A prompt cache that covers that many tokens."""
    return [tokens]
