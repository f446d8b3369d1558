"""Launches and waits: the graph that is handed to MLX, counted after MLX has fused what it compiles.

A view is no launch, a concatenation is one an input, a pad is a fill and a copy, all else is one. A wait is an
evaluation that the host stands still for. Kernels that a device splits in several (sorts, long reductions) are
one.
"""

import io
import re
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from backend.engine import waits

# Operations that make a view of what is there, or nothing at all.
_VIEWS = frozenset({
    "AsStrided", "Broadcast", "BroadcastAxes", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Squeeze",
    "Split", "StopGradient", "Transpose", "Unflatten", "View",
})  # fmt: skip
_NODE = re.compile(r'\{ (\d+) \[label ="(\w+)", shape=rectangle\]; \}')


@dataclass(slots=True)
class Counts:
    """What was handed to MLX while `counting`."""

    launches: Counter[str] = field(default_factory=Counter[str])
    waits: int = 0


def launches_of(*arrays: Any) -> Counter[str]:
    """Launches that evaluating these (trees of) arrays takes, by operation."""
    text = io.StringIO()
    mx.export_to_dot(text, *_leaves(arrays))
    found: Counter[str] = Counter()
    inputs = Counter(re.findall(r"-> (\d+)", text.getvalue()))
    for node, name in _NODE.findall(text.getvalue()):
        if name == "Concatenate":
            found[name] += inputs[node]
        elif name not in _VIEWS:
            found[name] += 2 if name == "Pad" else 1
    return found


def _leaves(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    return [leaf for branch in tree for leaf in _leaves(branch)] if isinstance(tree, list | tuple) else []


@contextmanager
def counting() -> Generator[Counts]:
    """Count what is evaluated in the body, on any thread."""
    counts = Counts()
    evaluate, put = mx.eval, mx.async_eval

    def waiting(*arrays: Any) -> None:
        counts.launches += launches_of(*arrays)
        counts.waits += 1
        evaluate(*arrays)

    def putting(*arrays: Any) -> None:
        counts.launches += launches_of(*arrays)
        put(*arrays)

    mx.eval, mx.async_eval, waits.evaluate, waits.put = waiting, putting, waiting, putting
    try:
        yield counts
    finally:
        mx.eval, mx.async_eval, waits.evaluate, waits.put = evaluate, put, evaluate, put
