"""MLX layer caches as bytes and back. The only module of the tier that imports mlx.

A body holds each segment as [rows][heads][tokens][features], as a group's blocks are in memory, then the arrays of
the states in the order of the layers. What a file says of classes is compared with the template's, never looked up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_cache.blocks import Block, Layout, State
from mlx_cache.disk.codec import Bytes, Part, Segment
from mlx_cache.disk.format import BadFile
from mlx_cache.layers import ByState, ByToken, Kind, LayerState, build_state, build_tokens, flatten, kind_of, nest
from mlx_cache.payload import LayerPlace, Stack

DTYPES: dict[str, mx.Dtype] = {
    str(dtype).removeprefix("mlx.core."): dtype
    for dtype in (
        mx.float32, mx.float16, mx.bfloat16, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32,
        mx.int64, mx.bool_,
    )
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ALLOWED = frozenset(("kv", "concatenate", "quantized", "chunked", "rotating", "filling", "arrays", "ring"))
# Codes of a row and codes at rest are the same arrays. Read, they are codes: only the cache's own form makes numbers.
_AS_FILED = {"at_rest": "quantized"}
_PIECE = 2 << 20
"""Bytes that are read, checked and copied at once: what a processor's cache holds."""


def writable() -> bool:
    """Whether MLX sees what is written into an evaluated array's memory. It does on a CPU."""
    try:
        array = mx.zeros((64,), mx.uint32)
        mx.eval(array)
        _bits(array)[:] = np.arange(64, dtype=np.uint32)
        return bool((array == mx.arange(64).astype(mx.uint32)).all().item())
    except (TypeError, ValueError, BufferError, RuntimeError):
        return False


class MlxCodec:
    """See Codec. `direct=None` tries out once whether arrays can be written in place; False never does."""

    def __init__(self, direct: bool | None = None) -> None:
        self._direct = direct

    def keeps(self, layout: Layout) -> bool:
        """See Codec."""
        kinds = all(_filed(place.kind.kind) in _ALLOWED for place in layout.detail)
        return kinds and all(group.detail.dtype in _NAMES for group in layout.groups)

    def pack(self, layout: Layout, segments: Sequence[Segment], state: State | None) -> tuple[dict[str, Any], Bytes]:
        """See Codec."""
        arrays = _state_arrays(state)
        size = sum((s.end - s.first) * layout.groups[s.group].bytes_per_token for s in segments)
        body = np.empty(size + sum(a.nbytes for layer in arrays for a, _ in filter(None, layer)), np.uint8)
        at = 0
        for segment in segments:
            stack: Stack = layout.groups[segment.group].detail
            shape = (stack.rows, stack.heads, segment.end - segment.first, stack.features)
            into = _room(body, at, shape, stack.dtype)
            for piece in segment.pieces:
                data = _block(piece.block)
                low = piece.block.start
                np.copyto(
                    into[:, :, piece.start - segment.first : piece.end - segment.first],
                    data[:, :, piece.start - low : piece.end - low],
                )
            at += into.nbytes
        for array, _ in (item for layer in arrays for item in filter(None, layer)):
            np.copyto(body[at : at + array.nbytes], array.reshape(-1).view(np.uint8))
            at += array.nbytes
        table: dict[str, Any] = {
            "layout": describe(layout),
            "segments": [[segment.group, segment.first, segment.end] for segment in segments],
            "states": [[item and [list(item[0].shape), item[1]] for item in layer] for layer in arrays],
        }
        return table, body

    def begin(self, template: Sequence[Any], table: dict[str, Any], length: int, room: int) -> MlxFilling:
        """See Codec."""
        if self._direct is None:
            self._direct = writable()
        layout = accepted(template, str(table.get("layout")))
        return MlxFilling(layout, str(table["layout"]), length, room, direct=self._direct)


def describe(layout: Layout) -> str:
    """A layout in plain text. Equal texts are equal layouts."""
    groups: list[list[Any]] = []
    for group in layout.groups:
        stack: Stack = group.detail
        groups.append([_filed(group.kind), group.reach, stack.rows, stack.heads, stack.features, _NAMES[stack.dtype]])
    layers = [
        [".".join(map(str, place.path)), _filed(place.kind.kind), list(place.kind.params), [g for g, _ in place.slots]]
        for place in layout.detail
    ]
    return json.dumps([groups, layers], separators=(",", ":"))


def _filed(kind: str) -> str:
    return _AS_FILED.get(kind, kind)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A file's layout, once the template has agreed to it."""

    groups: tuple[tuple[int, Stack], ...]
    """The reach and the shape of each group."""
    places: tuple[LayerPlace, ...]


def accepted(template: Sequence[Any], text: str) -> Accepted:
    """A file's layout for caches of the template's classes. Raises UnsupportedLayer or BadFile."""
    leaves = [(path, kind_of(cache)) for path, cache in flatten(template)]
    try:
        told_groups, told_layers = json.loads(text)
        groups = tuple(
            (int(reach), _checked(Stack(int(rows), int(heads), int(features), DTYPES[dtype])))
            for _, reach, rows, heads, features, dtype in told_groups
        )
        rows = [0] * len(groups)
        places: list[LayerPlace] = []
        for (path, wanted), (told_path, kind, params, slots) in zip(leaves, told_layers, strict=True):
            agreed = _agreed(wanted, str(kind), tuple(params))
            if agreed is None or told_path != ".".join(map(str, path)):
                raise BadFile("made for other layer caches")
            taken: list[tuple[int, int]] = []
            for group in map(int, slots):
                if not isinstance(agreed, ByToken) or groups[group][0] != agreed.reach or group < 0:
                    raise BadFile("made for other layer caches")
                taken.append((group, rows[group]))
                rows[group] += 1
            if isinstance(agreed, ByToken) and len(taken) not in ((4, 6) if agreed.kind == "quantized" else (2,)):
                raise BadFile("made for other layer caches")
            places.append(LayerPlace(path, agreed, tuple(taken)))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise BadFile("made for other layer caches") from None
    if [stack.rows for _, stack in groups] != rows:
        raise BadFile("made for other layer caches")
    return Accepted(groups, tuple(places))


def _checked(stack: Stack) -> Stack:
    if not all(0 < n < 1 << 24 for n in (stack.rows, stack.heads, stack.features)):
        raise ValueError
    return stack


def _agreed(wanted: Kind, kind: str, params: tuple[Any, ...]) -> Kind | None:
    """The template's kind if the file's is the same; a ring that has wrapped is of a template's that has not."""
    if wanted.kind == kind and wanted.kind in _ALLOWED and wanted.params == params:
        return wanted
    if wanted.kind == "filling" and kind == "ring" and wanted.params == params:
        return ByState("ring", wanted.params)
    return None


class MlxFilling:
    """See Filling. Arrays are made and evaluated here, on the reader's thread, and written into in place."""

    def __init__(self, layout: Accepted, text: str, length: int, room: int, *, direct: bool) -> None:
        self._layout = layout
        self._text = text
        self._length = length
        self._direct = direct
        # For each row of each group: its array, and the same as [heads, tokens, features] of unsigned numbers.
        self._rows: list[list[tuple[Any, NDArray[Any], int]]] = [[] for _ in layout.groups]
        self._came = [0] * len(layout.groups)
        self._states: list[list[Any]] | None = None
        made: list[Any] = []
        for place in layout.places:
            for group, _ in place.slots:
                assert isinstance(place.kind, ByToken)
                first = max(0, length - place.kind.reach)
                stack = layout.groups[group][1]
                shape = (1, stack.heads, place.kind.capacity(length - first, room), stack.features)
                array = self._made(shape, stack.dtype)
                made.append(array)
                self._rows[group].append((array, np.empty(0, np.uint8), first))
        if direct:
            mx.eval(made)
        for rows, (_, stack) in zip(self._rows, layout.groups, strict=True):
            for number, (array, _, first) in enumerate(rows):
                rows[number] = (array, _bits(array).reshape(stack.heads, -1, stack.features), first)

    def _made(self, shape: tuple[int, ...], dtype: mx.Dtype) -> Any:
        return mx.zeros(shape, dtype) if self._direct else np.zeros(shape, _UNSIGNED[dtype.size])

    def parts(self, table: dict[str, Any]) -> list[Part]:
        """See Filling."""
        if table.get("layout") != self._text:
            raise BadFile("made for other layer caches than the files before it")
        out: list[Part] = []
        try:
            for group, first, end in table["segments"]:
                out.extend(self._segment(int(group), int(first), int(end)))
            states = table["states"]
            if states:
                out.extend(self._state_parts(states))
        except (ValueError, TypeError, KeyError, IndexError):
            raise BadFile("table that does not fit its layout") from None
        return out

    def _segment(self, group: int, first: int, end: int) -> list[Part]:
        rows, stack = self._rows[group], self._layout.groups[group][1]
        if group < 0 or not 0 <= first < end or not rows:
            raise ValueError
        held = rows[0][2]
        low, high = max(first, held), min(end, self._length)
        if low < high and low != held + self._came[group]:
            raise BadFile("tokens that do not follow those before")
        self._came[group] += max(0, high - low)
        row_nbytes = stack.heads * (end - first) * stack.features * stack.dtype.size
        step = max(1, _PIECE // row_nbytes)

        def take(piece: Bytes, start: int) -> None:
            shape = (-1, stack.heads, end - first, stack.features)
            source = piece.view(_UNSIGNED[stack.dtype.size]).reshape(shape)
            for data, (_, row, _) in zip(source, rows[start : start + step], strict=False):
                np.copyto(row[:, low - held : high - held], data[:, low - first : high - first])

        def part(start: int) -> Part:
            count = min(step, len(rows) - start)
            wanted = low < high
            return Part(count * row_nbytes, (lambda piece: take(piece, start)) if wanted else (lambda piece: None))

        return [part(start) for start in range(0, len(rows), step)]

    def _state_parts(self, states: list[list[Any]]) -> list[Part]:
        layers = [place for place in self._layout.places if isinstance(place.kind, ByState)]
        if self._states is not None or len(states) != len(layers):
            raise ValueError
        out: list[Part] = []
        made: list[list[Any]] = []
        for told, place in zip(states, layers, strict=True):
            if len(told) != (place.kind.params[0] if place.kind.kind == "arrays" else 2):
                raise ValueError
            made.append([None if item is None else self._state_array(item, out) for item in told])
        if self._direct:
            mx.eval([array for layer in made for array in layer if array is not None])
        # The parts are filled in once the arrays are there: all of them are evaluated together.
        arrays = iter(array for layer in made for array in layer if array is not None)
        for part in out:
            part.take = _copier(next(arrays))
        self._states = made
        return out

    def _state_array(self, told: Any, out: list[Part]) -> Any:
        shape, dtype = tuple(int(n) for n in told[0]), DTYPES[told[1]]
        nbytes = dtype.size
        for n in shape:
            nbytes *= n
            if not 0 <= nbytes < 1 << 40:
                raise ValueError
        if not shape or shape[0] != 1 or len(shape) > 8:
            raise ValueError
        out.append(Part(nbytes, lambda piece: None))
        return self._made(shape, dtype) if self._direct else (self._made(shape, dtype), dtype)

    def finish(self) -> list[Any]:
        """See Filling."""
        leaves: list[tuple[tuple[int, ...], Any]] = []
        for (_, _), rows, came in zip(self._layout.groups, self._rows, self._came, strict=True):
            if came != self._length - rows[0][2]:
                raise BadFile("tokens are missing")
        states = iter(self._states or ())
        for place in self._layout.places:
            if isinstance(place.kind, ByState):
                state = next(states, None)
                if state is None:
                    raise BadFile("a state is missing")
                leaves.append((place.path, build_state(place.kind, self._length, LayerState(list(map(_state, state))))))
                continue
            first = max(0, self._length - place.kind.reach)
            arrays = [_finished(self._rows[g][row][0], self._layout.groups[g][1].dtype) for g, row in place.slots]
            leaves.append((place.path, build_tokens(place.kind, self._length, first, arrays)))
        caches = nest(leaves)
        if not self._direct:
            mx.eval([cache.state for cache in caches])
        return caches


def _finished(array: Any, dtype: mx.Dtype) -> mx.array:
    return array if isinstance(array, mx.array) else mx.array(array).view(dtype)


def _state(array: Any) -> mx.array | None:
    return _finished(*array) if isinstance(array, tuple) else array


def _copier(array: Any) -> Any:
    bits = _bits(array[0] if isinstance(array, tuple) else array).reshape(-1)
    return lambda piece: np.copyto(bits, piece.view(bits.dtype))


def _bits(array: Any) -> NDArray[Any]:
    """An evaluated, contiguous array's own memory as flat unsigned numbers of its items' size. Writing writes it."""
    if isinstance(array, np.ndarray):
        return array.reshape(-1)
    if array.size == 0:
        return np.empty(0, _UNSIGNED[array.dtype.size])
    return np.frombuffer(memoryview(array).cast("B"), _UNSIGNED[array.dtype.size])


def _block(block: Block) -> NDArray[Any]:
    data: mx.array = block.data
    return _bits(data).reshape(data.shape)


def _room(body: Bytes, at: int, shape: tuple[int, ...], dtype: mx.Dtype) -> NDArray[Any]:
    nbytes = int(np.prod(shape)) * dtype.size
    return body[at : at + nbytes].view(_UNSIGNED[dtype.size]).reshape(shape)


def _state_arrays(state: State | None) -> list[list[tuple[NDArray[Any], str] | None]]:
    """For each layer that has a state its arrays as unsigned numbers, with the names of their dtypes."""
    if state is None:
        return []
    out: list[list[tuple[NDArray[Any], str] | None]] = []
    for places in state.data.places:
        layer: list[tuple[NDArray[Any], str] | None] = []
        for place in places:
            if place is None:
                layer.append(None)
                continue
            stack = state.data.stacks[place[0]]
            layer.append((_bits(stack).reshape(stack.shape)[place[1]], _NAMES[stack.dtype]))
        out.append(layer)
    return out
