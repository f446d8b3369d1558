"""Copies of MLX layer caches in and out of the tree's blocks. With `layers`, the only module here that imports mlx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlx_cache.blocks import Block, Group, InconsistentCache, Layout, Piece, Restorable, State, UnsupportedLayer
from mlx_cache.layers import (
    ByState,
    ByToken,
    Kind,
    LayerState,
    TokenArrays,
    build_state,
    build_tokens,
    flatten,
    kind_of,
    nest,
    offset_of,
    read_state,
    read_tokens,
)


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where one layer's arrays lie: `slots` are (group, row in the group's stack), one per array by token."""

    path: tuple[int, ...]
    kind: Kind
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """The arrays of a group: `rows` of shape [1, heads, tokens, features]."""

    rows: int
    heads: int
    features: int
    dtype: mx.Dtype


@dataclass(slots=True)
class _StateData:
    stacks: list[mx.array]
    # For each state layer, for each of its arrays: (stack, row), or None where the model had none.
    places: list[list[tuple[int, int] | None]]
    # For each state layer: what is not an array.
    rest: list[Any]


class MlxPayload:
    """The payload of a cache of mlx-lm's layer caches. Any thread may use it.

    `kept_whole` are classes beyond the allow-list that the caller has tried: a copy of all their attributes goes on as
    the original does. They are restored where they were stored, as other states are. `evaluate` is how copies are
    waited for; what it raises goes to the caller of the cache, and nothing is stored.

    With `at_rest`, a group size and bits as of `mx.quantize`, plain KV layers are kept as codes and restored as the
    numbers that those stand for. Quantising these again gives other codes: who stores what was restored does so only
    where the cache still has it, and then nothing is copied. Layers that hold such codes are kept as they are.
    """

    def __init__(
        self,
        kept_whole: Iterable[type] = (),
        *,
        evaluate: Callable[..., None] = mx.eval,
        at_rest: tuple[int, int] | None = None,
    ) -> None:
        self._kept_whole = frozenset(kept_whole)
        self._evaluate = evaluate
        self._at_rest = at_rest

    def unknown(self, prompt_cache: Sequence[Any]) -> set[type]:
        """The layer classes that would be refused."""
        out: set[type] = set()
        for _, cache in flatten(prompt_cache):
            try:
                kind_of(cache, self._kept_whole, self._at_rest)
            except UnsupportedLayer:
                out.add(type(cache))
        return out

    def offset(self, prompt_cache: Sequence[Any]) -> int | None:
        """See Payload."""
        offsets = set[int]()
        for _, cache in flatten(prompt_cache):
            kind_of(cache, self._kept_whole, self._at_rest)
            offset = offset_of(cache)
            if offset is not None:
                offsets.add(offset)
        if len(offsets) > 1:
            raise InconsistentCache(f"layers cover {sorted(offsets)} tokens")
        return offsets.pop() if offsets else None

    def layout(self, prompt_cache: Sequence[Any]) -> Layout:
        """See Payload."""
        rows: dict[tuple[str, int, int, int, mx.Dtype], int] = {}
        places: list[LayerPlace] = []
        for path, cache in flatten(prompt_cache):
            kind = kind_of(cache, self._kept_whole, self._at_rest)
            slots: list[tuple[int, int]] = []
            for array in _one_token(read_tokens(cache, kind)) if isinstance(kind, ByToken) else ():
                key = (kind.kind, kind.reach, array.shape[1], array.shape[3], array.dtype)  # type: ignore[union-attr]
                row = rows.get(key, 0)
                rows[key] = row + 1
                slots.append((list(rows).index(key), row))
            places.append(LayerPlace(path, kind, tuple(slots)))
        groups = tuple(
            Group(name, reach, n * heads * features * dtype.size, Stack(n, heads, features, dtype))
            for (name, reach, heads, features, dtype), n in rows.items()
        )
        return Layout(groups, any(isinstance(place.kind, ByState) for place in places), tuple(places))

    def available(self, prompt_cache: Sequence[Any], layout: Layout) -> list[int]:
        """See Payload."""
        first = [0] * len(layout.groups)
        for _, place, held in self._held(prompt_cache, layout):
            for group, _ in place.slots:
                first[group] = max(first[group], held.first)
        return first

    def state_nbytes(self, prompt_cache: Sequence[Any], layout: Layout) -> int:
        """See Payload."""
        return sum(a.nbytes for state in _states(prompt_cache, layout) for a in state.arrays if a is not None)

    def copy_blocks(
        self, prompt_cache: Sequence[Any], layout: Layout, ranges: list[list[tuple[int, int]]]
    ) -> list[list[Block]]:
        """See Payload."""
        stacks: list[dict[tuple[int, int], list[mx.array]]] = [{wanted: [] for wanted in group} for group in ranges]
        for _, place, held in self._held(prompt_cache, layout):
            groups = [group for group, _ in place.slots]
            for wanted in dict.fromkeys(wanted for group in groups for wanted in ranges[group]):
                for group, array in zip(groups, held.stored(*wanted), strict=True):
                    if wanted in stacks[group]:
                        stacks[group][wanted].append(array)
        out: list[list[Block]] = []
        for stack, group in zip(stacks, ranges, strict=True):
            joined = [(start, end, _joined(stack[start, end], axis=0)) for start, end in group]
            out.append([Block(start, end, data.nbytes, data) for start, end, data in joined])
        # Evaluate here: an unevaluated array belongs to this thread's stream and keeps its inputs alive.
        self._evaluate([block.data for blocks in out for block in blocks])
        return out

    def copy_state(self, prompt_cache: Sequence[Any], layout: Layout) -> State:
        """See Payload."""
        members: dict[tuple[tuple[int, ...], mx.Dtype], list[mx.array]] = {}
        places: list[list[tuple[int, int] | None]] = []
        states = _states(prompt_cache, layout)
        for state in states:
            places.append([])
            for array in state.arrays:
                if array is None:
                    places[-1].append(None)
                    continue
                members.setdefault((array.shape, array.dtype), []).append(array)
                stack = list(members).index((array.shape, array.dtype))
                places[-1].append((stack, len(members[array.shape, array.dtype]) - 1))
        stacks = [_joined([array[None] for array in arrays], axis=0) for arrays in members.values()]
        self._evaluate(stacks)
        return State(
            sum(stack.nbytes for stack in stacks),
            len(stacks),
            _StateData(stacks, places, [state.rest for state in states]),
        )

    def cut(self, layout: Layout, cuts: list[tuple[Block, int]]) -> list[tuple[Block, Block]]:
        """See Payload."""
        out: list[tuple[Block, Block]] = []
        for block, at in cuts:
            k = at - block.start
            left, right = _copy_tokens(block.data[..., :k, :]), _copy_tokens(block.data[..., k:, :])
            out.append((Block(block.start, at, left.nbytes, left), Block(at, block.end, right.nbytes, right)))
        self._evaluate([side.data for pair in out for side in pair])
        return out

    def restore(self, layout: Layout, restorable: Restorable, room: int, *, as_stored: bool = False) -> list[Any]:
        """See Payload. With `as_stored` what is kept as codes comes back as codes."""
        leaves: list[tuple[tuple[int, ...], Any]] = []
        fresh: list[mx.array] = []
        padding: dict[tuple[int, int], mx.array] = {}
        states = iter(_layer_states(restorable.state))
        for place in layout.detail:
            if isinstance(place.kind, ByState):
                state = next(states)
                fresh.extend(array for array in state.arrays if array is not None)
                leaves.append((place.path, build_state(place.kind, restorable.length, state)))
                continue
            first = max(0, restorable.length - place.kind.reach)
            held = restorable.length - first
            spare = place.kind.capacity(held, room) - held
            rows: list[mx.array] = []
            for group, row in place.slots:
                parts = _row(restorable.pieces[group], row)
                if spare:
                    parts.append(_zeros(padding, group, layout.groups[group].detail, spare))
                rows.append(_joined(parts, axis=2))
            kind = replace(place.kind, kind="quantized") if as_stored and place.kind.kind == "at_rest" else place.kind
            made = build_tokens(kind, restorable.length, first, rows)
            fresh.extend([made.keys, made.values] if kind.kind == "at_rest" else rows)
            leaves.append((place.path, made))
        self._evaluate(fresh)
        return nest(leaves)

    @staticmethod
    def _held(prompt_cache: Sequence[Any], layout: Layout) -> list[tuple[Any, LayerPlace, TokenArrays]]:
        layers = zip(flatten(prompt_cache), layout.detail, strict=True)
        return [
            (cache, place, read_tokens(cache, place.kind))
            for (_, cache), place in layers
            if isinstance(place.kind, ByToken)
        ]


def _one_token(held: TokenArrays) -> list[mx.array]:
    """What is kept of the newest token: its shapes and types are those of every other."""
    return held.stored(held.offset - 1, held.offset)


def _states(prompt_cache: Sequence[Any], layout: Layout) -> list[LayerState]:
    layers = zip(flatten(prompt_cache), layout.detail, strict=True)
    return [read_state(cache, place.kind) for (_, cache), place in layers if isinstance(place.kind, ByState)]


def _layer_states(state: State | None) -> Iterator[LayerState]:
    if state is None:
        return
    data: _StateData = state.data
    for places, rest in zip(data.places, data.rest, strict=True):
        yield LayerState([None if place is None else _copied(data.stacks, place) for place in places], rest)


def _copied(stacks: list[mx.array], place: tuple[int, int]) -> mx.array:
    stack, row = place
    if not stacks[stack].size:
        return mx.zeros(stacks[stack].shape[1:], stacks[stack].dtype)
    # A gather copies; a slice would keep the whole stored stack alive after its eviction.
    return mx.take(stacks[stack], mx.array([row]), axis=0).squeeze(0)


def _row(pieces: list[Piece], row: int) -> list[mx.array]:
    return [
        piece.block.data[row : row + 1, :, piece.start - piece.block.start : piece.end - piece.block.start, :]
        for piece in pieces
    ]


def _zeros(made: dict[tuple[int, int], mx.array], group: int, stack: Stack, tokens: int) -> mx.array:
    if (group, tokens) not in made:
        made[group, tokens] = mx.zeros((1, stack.heads, tokens, stack.features), stack.dtype)
    return made[group, tokens]


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    """A concatenation that owns its memory even when there is only one part."""
    return mx.concatenate(parts, axis=axis) if len(parts) > 1 else _copy_tokens(parts[0])


def _copy_tokens(array: mx.array) -> mx.array:
    # A slice may share its parent's buffer, and MLX drops contiguous() and one-part concatenations of it as no-ops.
    axis = int(max(range(array.ndim), key=lambda i: array.shape[i]))
    n = array.shape[axis]
    if n < 2 or array.size == 0:
        return mx.take(array, mx.arange(n), axis=axis) if array.size else mx.zeros(array.shape, array.dtype)
    low, high = mx.split(array, [n // 2], axis=axis)
    return mx.concatenate([low, high], axis=axis)
