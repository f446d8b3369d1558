"""What exists twice while rows join, leave or grow: peak memory of the batch operations, in layers of copies.

python -m benchmarks.peaks [--tokens 2047 --heads 4 --features 64]

Bytes as MLX counts them, which are the same in every run on one device. Copies in layers is the peak over what the
batch holds before or after, whichever is more, divided by one layer of it: `LAYERS_IN_FLIGHT` of
`backend/engine/batching/memory.py` must not be less.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from backend.engine.batching.memory import BLOCK_TOKENS, LAYERS_IN_FLIGHT
from backend.engine.kv.merging import merged
from backend.engine.kv.row_caches import copied, row_cache
from benchmarks.report import Report, arguments, parse

ROWS = 4


class Batch:
    """The caches of rows, changed as the decode batch changes them; the step after it evaluates, layer by layer."""

    def __init__(self, layers: int, tokens: int, heads: int, features: int) -> None:
        self._one = (1, heads, 1, features)
        self._waiting = [self._row(layers, tokens) for _ in range(ROWS)]
        self._caches: list[Any] = []
        self._rows = 0

    def _row(self, layers: int, tokens: int) -> list[KVCache]:
        caches = [KVCache() for _ in range(layers)]
        keys = mx.zeros((1, self._one[1], tokens, self._one[3]))
        for cache in caches:
            cache.update_and_fetch(keys, keys)
            mx.eval(cache.state)
        return caches

    def nbytes(self) -> int:
        """Of the rows in the batch and those that wait to join it."""
        return sum(cache.nbytes for caches in (self._caches, *self._waiting) for cache in caches)

    def step(self) -> None:
        """One token for every row."""
        keys = mx.zeros((self._rows, *self._one[1:]))
        for cache in self._caches:
            cache.update_and_fetch(keys, keys)
        mx.eval([cache.state for cache in self._caches])

    def merge(self) -> None:
        """All rows but one."""
        rows, self._waiting = self._waiting[1:], self._waiting[:1]
        self._caches, self._rows = [merged(layer) for layer in zip(*rows, strict=True)], ROWS - 1
        del rows
        self.step()

    def extend(self) -> None:
        """The last one too."""
        grown = [copied(cache) for cache in self._caches]
        for mine, theirs in zip(grown, self._waiting.pop(), strict=True):
            mine.extend(merged([theirs]))
        self._caches, self._rows = grown, ROWS
        del grown
        self.step()

    def grow(self) -> None:
        """Steps until the arrays are made anew, a block longer."""
        before = self.nbytes()
        while self.nbytes() == before:
            self.step()

    def leave(self) -> None:
        """One row leaves."""
        for cache in self._caches:
            cache.filter([0, 1, 3])
        self._rows = ROWS - 1
        self.step()

    def part(self) -> None:
        """One row stays, unmerged."""
        self._caches = [row_cache(cache, 1) for cache in self._caches]
        self._rows = 1
        self.step()


def peak(batch: Batch, change: Callable[[], None]) -> tuple[int, int, int]:
    """Bytes before a change of the batch, at its peak, and after."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    change()
    return before, mx.get_peak_memory(), mx.get_active_memory()


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--tokens", type=int, default=2047)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--features", type=int, default=64)
    options = parse(parser, layers=[8, 16], tokens=300, heads=2, features=16)
    report = Report(options)
    report.note(f"{ROWS} rows of {options.tokens} tokens, growth by {BLOCK_TOKENS}; on {mx.default_device()}")
    rows: list[list[object]] = []
    for layers in options.layers:
        batch = Batch(layers, options.tokens, options.heads, options.features)
        for change in (batch.merge, batch.extend, batch.grow, batch.leave, batch.part):
            before, most, after = peak(batch, change)
            larger = max(before, after)
            rows.append([layers, change.__name__, most / larger, (most - larger) / (larger / layers)])
        del batch
    report.table(["layers", "change", "peak over the larger of before and after", "copies in layers"], rows)
    worst = max(float(str(row[3])) for row in rows)
    report.note(f"at most {worst:.1f} layers of copies; LAYERS_IN_FLIGHT is {LAYERS_IN_FLIGHT}")


if __name__ == "__main__":
    main()
