"""Layer caches of classes that nobody here knows, as the values of their attributes.

A copy of every attribute is a copy of the layer if the attributes are data: arrays, numbers, text, and lists, tuples
and dictionaries of them. Whether it answers like the original is for the caller to try. Only `mlx_cache.layers`
imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_cache.blocks import UnsupportedLayer

_PLAIN = (type(None), bool, int, float, str, mx.Dtype)


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands for an array."""

    index: int


def take_apart(cache: Any) -> tuple[list[mx.array | None], Any]:
    """The arrays of a layer, and everything else in it. Raises UnsupportedLayer for what is not data."""
    try:
        attributes = vars(cache)
    except TypeError:
        raise UnsupportedLayer(f"{type(cache).__name__}: has no attributes to copy") from None
    arrays: list[mx.array | None] = []
    return arrays, _without_arrays(attributes, arrays, type(cache).__name__)


def put_together(cls: type, arrays: list[mx.array | None], rest: Any) -> Any:
    """A layer of the class with these attributes; its constructor does not run."""
    made: Any = object.__new__(cls)
    vars(made).update(_with_arrays(rest, arrays))
    return made


def _without_arrays(value: Any, arrays: list[mx.array | None], name: str) -> Any:
    if isinstance(value, mx.array):
        arrays.append(value)
        return _Place(len(arrays) - 1)
    if type(value) in _PLAIN:
        return value
    if type(value) in (list, tuple):
        return type(value)(_without_arrays(item, arrays, name) for item in value)
    if type(value) is dict:
        return {key: _without_arrays(item, arrays, name) for key, item in value.items()}
    raise UnsupportedLayer(f"{name}: holds a {type(value).__name__}")


def _with_arrays(value: Any, arrays: list[mx.array | None]) -> Any:
    if isinstance(value, _Place):
        return arrays[value.index]
    if isinstance(value, list | tuple):
        return type(value)(_with_arrays(item, arrays) for item in value)
    if isinstance(value, dict):
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return value
