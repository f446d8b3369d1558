"""The trial of what the prompt cache may keep: nothing if pieces of a prompt do not add up to it, and which states."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.loading.kv_cost import leaves
from backend.engine.loading.probe.company import decode
from backend.engine.loading.probe.context import Context, Model, NewCache, read
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload

# A state of an unknown class is taken at more than one length: groups of tokens may be open or just closed.
_LENGTHS = (7, 24, 33)
_STEPS = 5


def unknown_layers(caches: Sequence[Any]) -> frozenset[type]:
    """The layer classes that the prompt cache does not know."""
    return frozenset(MlxPayload().unknown(list(leaves(caches))))


def restored_differs(model: Model, new_cache: NewCache, classes: frozenset[type]) -> str:
    """Why layers of these classes cannot be kept as copies of all their attributes; empty if they can."""
    names = ", ".join(sorted(kind.__name__ for kind in classes))
    try:
        exact = all(_goes_on(model, new_cache, Context(length), classes) for length in _LENGTHS)
    except FOREIGN as error:
        return f"{names}: {one_line(error)}"
    return "" if exact else f"{names}: a restored copy gives other logits"


def _goes_on(model: Model, new_cache: NewCache, context: Context, classes: frozenset[type]) -> bool:
    """Whether a row that was stored and restored gives the very logits of the row that was not."""
    caches = read(model, new_cache, context)
    store = PromptCache(payload=MlxPayload(classes))
    key = np.arange(context.tokens + 1, dtype=np.int32)
    store.insert("probe", key[:-1], caches)
    original = decode(model, caches, context, _STEPS)
    # Twice: what the first copy does must not reach what is stored.
    for _ in range(2):
        restored = store.fetch("probe", key)
        if restored.caches is None or restored.length != context.tokens:
            return False
        if not mx.array_equal(decode(model, restored.caches, context, _STEPS), original).item():
            return False
    return True
