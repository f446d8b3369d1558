"""The part of a model that makes hidden states: found by trying, for each architecture of mlx-lm has it elsewhere.

Engine thread only.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ConcatenateKVCache, KVCache, make_prompt_cache

from backend.engine.loading.failures import FOREIGN, check_cancelled, one_line
from backend.engine.loading.loaded import Backbone
from backend.engine.loading.probe.company import FLOAT32_TOLERANCE, MOST_IN_COMPANY

NOT_FOUND = "no part of this model gives hidden states that the rest of it makes logits of"
# What wraps a language model, that, and what is in it before the head.
_DEPTH = 3
_SHORT, _LONG = 5, 11


def find_backbone(model: Any, *, cancelled: Callable[[], bool] = lambda: False) -> Backbone | str:
    """The backbone, or in one line why there is none. Some ten passes over a few tokens.

    It is the innermost module that takes tokens and whose output, whatever it is, the rest of the model turns into
    logits place by place: what is fed back in reverse order comes out so.

    Args:
        cancelled: Asked between some passes; true ends it.

    Raises:
        ModelLoadFailed: It was cancelled.
    """
    if not isinstance(model, nn.Module):
        return NOT_FOUND

    def new_cache() -> list[Any]:
        return make_prompt_cache(model)

    tokens = _tokens(_LONG, 1)
    try:
        logits = model(tokens, cache=new_cache())
    except FOREIGN as error:
        return one_line(error)
    for path in _paths(model, ()):
        check_cancelled(cancelled)
        width = _width(model, path, tokens, logits, new_cache)
        if width is not None:
            check_cancelled(cancelled)
            forward = _at(model, path)
            # Both at once; a model that does not take such caches may be one that takes padding.
            lean = _padded(forward, new_cache, lambda: without_room(new_cache()))
            padded = lean or _padded(forward, new_cache, new_cache)
            return Backbone(path=path, forward=forward, new_cache=new_cache, width=width, padded=padded, lean=lean)
    return NOT_FOUND


def same_backbone(known: Backbone, model: Any) -> Backbone:
    """That of the same model, loaded again."""
    return replace(known, forward=_at(model, known.path), new_cache=lambda: make_prompt_cache(model))


def caches_for_one_pass(backbone: Backbone) -> list[Any]:
    """Fresh caches for a pass from the beginning, after which nothing goes on from them."""
    return without_room(backbone.new_cache()) if backbone.lean else backbone.new_cache()


def without_room(caches: list[Any]) -> list[Any]:
    """The like that keep what they are given as it is; others take room for 256 tokens, and copy it there."""
    return [ConcatenateKVCache() if type(cache) is KVCache else cache for cache in caches]


def _tokens(count: int, seed: int) -> mx.array:
    return mx.array([[(place * 7 + seed) % 13 + 1 for place in range(count)]])


def _paths(module: nn.Module, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Modules within modules, innermost first; those in lists are layers, which take no tokens."""
    if len(path) >= _DEPTH:
        return
    for name, child in module.children().items():
        if isinstance(child, nn.Module):
            yield from _paths(child, (*path, name))
            yield (*path, name)


def _at(model: Any, path: Sequence[str]) -> Any:
    for name in path:
        model = model[name]
    return model


def _width(
    model: Any, path: tuple[str, ...], tokens: mx.array, logits: mx.array, new_cache: Callable[[], list[Any]]
) -> int | None:
    """The width of this module's hidden states; None where it is no backbone."""
    try:
        hidden = _at(model, path)(tokens, cache=new_cache())
        if not isinstance(hidden, mx.array) or hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
            return None
        # A module that gives logits has the head in it.
        if hidden.shape == logits.shape and _alike(hidden, logits):
            return None
        for given, expected in ((hidden, logits), (hidden[:, ::-1], logits[:, ::-1])):
            with _giving(_at(model, path[:-1]), path[-1], given):
                if not _alike(model(tokens, cache=new_cache()), expected):
                    return None
    except FOREIGN:  # it takes other arguments, or the rest of the model does more with it than to call it
        return None
    return int(hidden.shape[-1])


class _Given:
    """Stands for a module, and gives what it is told to whatever it is called with."""

    def __init__(self, module: Any, output: mx.array) -> None:
        self._module = module
        self._output = output

    def __call__(self, *_args: Any, **_options: Any) -> mx.array:
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def _giving(parent: Any, name: str, output: mx.array) -> Generator[None]:
    # By item, for a module keeps its children as a dictionary does, in the order of its weights.
    module = parent[name]
    parent[name] = _Given(module, output)
    try:
        yield
    finally:
        parent[name] = module


def _padded(
    forward: Callable[..., mx.array], new_cache: Callable[[], list[Any]], passing: Callable[[], list[Any]]
) -> bool:
    short, long = _tokens(_SHORT, 2), _tokens(_LONG, 5)
    padding = mx.zeros((1, _LONG - _SHORT), dtype=short.dtype)
    try:
        together = forward(mx.concatenate([mx.concatenate([short, padding], axis=1), long]), cache=passing())
        alone = [forward(tokens, cache=new_cache()) for tokens in (short, long)]
        return _alike(together[:1, :_SHORT], alone[0]) and _alike(together[1:], alone[1])
    except FOREIGN:
        return False


def _alike(ours: mx.array, theirs: mx.array) -> bool:
    if ours.shape != theirs.shape:
        return False
    tolerance = FLOAT32_TOLERANCE if theirs.dtype == mx.float32 else MOST_IN_COMPANY
    ours, theirs = ours.astype(mx.float32), theirs.astype(mx.float32)
    # Some heads forbid tokens altogether.
    finite = mx.isfinite(theirs)
    theirs = mx.where(finite, theirs, 0)
    apart = mx.max(mx.abs(mx.where(finite, ours, 0) - theirs))
    return bool((apart <= tolerance * mx.max(mx.abs(theirs))).item())
