"""The index's view of the data it keeps: groups of layers, blocks of tokens, and states. No mlx here.

Positions are absolute token positions, ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

BLOCK_TOKENS = 512
"""Tokens in a block at most. Large enough that a million tokens are a few thousand buffers, small enough that
evicting one block at a time follows the budget closely."""

MAX_BLOCK_TOKENS = 1024

EVERYTHING = 1 << 62
"""The reach of a group whose layers attend to every earlier token."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers whose arrays have one shape and dtype, so that a block of them is one stacked buffer.

    `reach` is how many tokens before a position its restored state needs: `EVERYTHING` for full attention, the
    window for sliding windows. `kind` tells groups of equal shape and different layer classes apart.
    """

    kind: str
    reach: int
    bytes_per_token: int
    detail: Any = None

    @property
    def is_full(self) -> bool:
        """Whether every token of the sequence is needed."""
        return self.reach >= EVERYTHING


@dataclass(frozen=True, slots=True)
class Layout:
    """How the layers of one model's cache are kept. Equal layouts can share a tree; `detail` is the payload's own."""

    groups: tuple[Group, ...]
    has_state: bool
    detail: Any = None

    @property
    def cuttable(self) -> bool:
        """Whether a sequence may be cut after any token."""
        return not self.has_state and all(group.is_full for group in self.groups)


@dataclass(slots=True, eq=False)
class Block:
    """One buffer: the tokens `[start, end)` of every layer of one group."""

    start: int
    end: int
    nbytes: int
    data: Any


@dataclass(slots=True, eq=False)
class State:
    """What layers that cannot be cut by token hold at exactly one position."""

    nbytes: int
    n_buffers: int
    data: Any


@dataclass(slots=True)
class Piece:
    """The part `[start, end)` of a block that a restore reads."""

    block: Block
    start: int
    end: int


@dataclass(slots=True)
class Restorable:
    """Everything a payload needs to rebuild a prompt cache of `length` tokens; `pieces` has one list a group."""

    length: int
    pieces: list[list[Piece]] = field(default_factory=list[list[Piece]])
    state: State | None = None


class UnsupportedLayer(Exception):
    """A layer cache class that is not on the allow-list; the argument is its name."""


class InconsistentCache(ValueError):
    """A prompt cache whose layers disagree with each other or with the key."""


class Payload(Protocol):
    """Copies in and out of prompt caches. The only implementation that knows MLX is `mlx_cache.payload`.

    Every method runs outside the cache's lock, on the thread that called the cache. What is returned is evaluated
    and owns its memory.
    """

    def layout(self, prompt_cache: Sequence[Any]) -> Layout:
        """The layout of a prompt cache; raises UnsupportedLayer or InconsistentCache."""
        ...

    def offset(self, prompt_cache: Sequence[Any]) -> int | None:
        """The tokens covered by every layer; None where no layer counts them; raises InconsistentCache."""
        ...

    def available(self, prompt_cache: Sequence[Any], layout: Layout) -> list[int]:
        """For each group the first position whose entries the prompt cache still holds."""
        ...

    def state_nbytes(self, prompt_cache: Sequence[Any], layout: Layout) -> int:
        """What `copy_state` would take."""
        ...

    def copy_blocks(
        self, prompt_cache: Sequence[Any], layout: Layout, ranges: list[list[tuple[int, int]]]
    ) -> list[list[Block]]:
        """Compact copies of the given ranges, one list a group."""
        ...

    def copy_state(self, prompt_cache: Sequence[Any], layout: Layout) -> State:
        """A compact copy of the layers that cannot be cut."""
        ...

    def cut(self, layout: Layout, cuts: list[tuple[Block, int]]) -> list[tuple[Block, Block]]:
        """Compact copies of both sides of each block at a position."""
        ...

    def restore(self, layout: Layout, restorable: Restorable, room: int, *, as_stored: bool = False) -> list[Any]:
        """A prompt cache owned by the caller, with room for at least `room` more tokens."""
        ...
