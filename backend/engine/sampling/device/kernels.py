"""The elementwise parts of a draw, each a single launch on a GPU, and the constants that they work with.

What is between two reductions or sorts becomes one kernel by `mx.compile`; its numbers are the same bits either way.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

import mlx.core as mx
import numpy as np

from backend.engine.sampling.device.noise import gumbel
from backend.engine.sampling.noise import BLOCK

F = TypeVar("F", bound=Callable[..., Any])

# A token and what became of it share one word, so that the host reads a step at once.
STATE_SHIFT = 30
TOKEN_MASK = (1 << STATE_SHIFT) - 1
NOT_FINITE_STATE, NOTHING_LEFT = 1, 2

# Settings of the batches that came by last; each is a few bytes a row.
_KEPT_CONSTANTS = 256


# MLX fuses no more than eleven operations deep, a broadcast being one, so these are put in few.
def _finished_plain(token: mx.array, of_raw: mx.array) -> tuple[mx.array, mx.array]:
    """`_finished` where nothing was done to the model's logits."""
    fine = mx.abs(of_raw) < mx.inf
    return _fed_and_read(mx.where(fine, token, _word(NOT_FINITE_STATE << STATE_SHIFT)))


def _finished(token: mx.array, of_raw: mx.array, of_values: mx.array) -> tuple[mx.array, mx.array]:
    """Tokens safe to feed, and tokens with their states, both uint32 `[rows]`.

    One sum tells all: logsumexp is NaN or +inf where a logit is, -inf where all are. A row that failed gets token 0,
    since what NaN does to an index is each device's own affair.

    Args:
        of_raw, of_values: logsumexp of the model's logits and of what bias, penalties and masks left of them, `[rows]`.
    """
    fine_raw = mx.abs(of_raw) < mx.inf
    fine = fine_raw & (mx.abs(of_values) < mx.inf)
    nothing = fine_raw & (of_values == -mx.inf)
    failure = mx.where(nothing, _word(NOTHING_LEFT << STATE_SHIFT), _word(NOT_FINITE_STATE << STATE_SHIFT))
    return _fed_and_read(mx.where(fine, token, failure))


def _fed_and_read(words: mx.array) -> tuple[mx.array, mx.array]:
    # From the words, not beside them: MLX makes one kernel of what hangs on one result.
    return words & _word(TOKEN_MASK), words


def _word(value: int) -> mx.array:
    return mx.array(value, mx.uint32)


def _joined(block: mx.array, place: mx.array) -> mx.array:
    return block * _word(BLOCK) + place


def _finished_drawn(
    block: mx.array, place: mx.array, of_raw: mx.array, of_values: mx.array
) -> tuple[mx.array, mx.array]:
    return _finished(_joined(block, place), of_raw, of_values)


def _finished_mixed(
    block: mx.array,
    place: mx.array,
    likeliest: mx.array,
    temperature: mx.array,
    of_raw: mx.array,
    of_values: mx.array,
) -> tuple[mx.array, mx.array]:
    return _finished(mx.where(temperature > 0.0, _joined(block, place), likeliest), of_raw, of_values)


def _tempered(logits: mx.array, peak: mx.array, temperature: mx.array) -> tuple[mx.array, mx.array]:
    """Logits over the temperature, and their weights. A temperature of 0 is its row's greedy pick, made elsewhere."""
    scaled = (logits - peak) / mx.where(temperature > 0.0, temperature, 1.0)
    return scaled, mx.exp(scaled)


def _block_scores(weights: mx.array, numbers: mx.array, low: mx.array, high: mx.array) -> mx.array:
    return mx.log(weights) + gumbel(numbers, low, high)


def _token_scores(inside: mx.array, block: mx.array, places: mx.array, low: mx.array, high: mx.array) -> mx.array:
    return inside + gumbel(_joined(block, places), low, high)


def _penalised(
    logits: mx.array, counts: mx.array, repetition: mx.array, presence: mx.array, frequency: mx.array
) -> mx.array:
    repeated = mx.where(logits < 0, logits * repetition, logits / repetition)
    return mx.where(counts > 0, repeated - presence - frequency * counts, logits)


def _limits(words: mx.array, bits: mx.array) -> mx.array:
    """+inf where a bit is set, -inf where it is not: as upper limits they let NaN through."""
    return mx.where(((words >> bits) & _word(1)) > 0, mx.inf, -mx.inf)


def _numbered(blocks: mx.array, width: mx.array, places: mx.array) -> mx.array:
    return blocks * width + places


def _weights_below(largest: mx.array, normaliser: mx.array) -> mx.array:
    return mx.exp(largest - normaliser)


def _within_mass(before: mx.array, values: mx.array, mass: mx.array) -> mx.array:
    return mx.where(before < mass, values, mx.inf)


def _prefix_cut(best: mx.array, log_min_p: mx.array, last: mx.array, top_p: mx.array) -> mx.array:
    return mx.maximum(best + log_min_p, mx.where(top_p < 1.0, last, -mx.inf))


def _reaching(logits: mx.array, cut: mx.array) -> mx.array:
    return mx.where(logits >= cut, logits, -mx.inf)


def _in_top_k(logits: mx.array, numbers: mx.array, kth: mx.array, kth_id: mx.array, cut: mx.array) -> mx.array:
    """Those before the k-th in the order of logits, of equals the lowest ids first, and not under the cut."""
    kept = (logits > kth) | ((logits == kth) & (numbers <= kth_id))
    return mx.where(kept & (logits >= cut), logits, -mx.inf)


def _surprise(logits: mx.array, probs: mx.array, peak: mx.array) -> mx.array:
    return mx.where(logits > -mx.inf, probs * (logits - peak), 0.0)


def _distance(logits: mx.array, peak: mx.array, mean: mx.array) -> mx.array:
    return mx.where(logits > -mx.inf, mx.abs((logits - peak) - mean), mx.inf)


def _near(before: mx.array, near: mx.array, mass: mx.array) -> mx.array:
    return mx.where(before < mass, near, -mx.inf)


def _no_farther(logits: mx.array, distance: mx.array, last: mx.array) -> mx.array:
    return mx.where(distance <= last, logits, -mx.inf)


def _over(logits: mx.array, probs: mx.array, threshold: mx.array) -> mx.array:
    return mx.where(probs > threshold, logits, mx.inf)


def _without_top(logits: mx.array, least: mx.array, exempt: mx.array) -> mx.array:
    return mx.where((logits > least) & (exempt == 0), -mx.inf, logits)


def _kernel(function: F, fused: bool) -> F:
    # Shapeless: one kernel for any number of rows and any vocabulary.
    return cast(F, mx.compile(function, shapeless=True)) if fused else function


class Kernels:
    """Engine thread only. What is kept are constants; no draw hangs on an earlier one.

    Args:
        fused: Compile each function to one kernel. On a CPU that takes a C++ compiler and seconds, for no gain.
    """

    def __init__(self, *, fused: bool) -> None:
        self.finished_plain = _kernel(_finished_plain, fused)
        self.finished = _kernel(_finished, fused)
        self.finished_drawn = _kernel(_finished_drawn, fused)
        self.finished_mixed = _kernel(_finished_mixed, fused)
        self.tempered = _kernel(_tempered, fused)
        self.block_scores = _kernel(_block_scores, fused)
        self.token_scores = _kernel(_token_scores, fused)
        self.penalised = _kernel(_penalised, fused)
        self.limits = _kernel(_limits, fused)
        self.numbered = _kernel(_numbered, fused)
        self.weights_below = _kernel(_weights_below, fused)
        self.within_mass = _kernel(_within_mass, fused)
        self.prefix_cut = _kernel(_prefix_cut, fused)
        self.reaching = _kernel(_reaching, fused)
        self.in_top_k = _kernel(_in_top_k, fused)
        self.surprise = _kernel(_surprise, fused)
        self.distance = _kernel(_distance, fused)
        self.near = _kernel(_near, fused)
        self.no_farther = _kernel(_no_farther, fused)
        self.over = _kernel(_over, fused)
        self.without_top = _kernel(_without_top, fused)
        self._constants: OrderedDict[tuple[object, ...], mx.array] = OrderedDict()

    def column(self, values: tuple[float, ...], dtype: mx.Dtype = mx.float32) -> mx.array:
        """`[n, 1]`, kept on the device."""
        return self._constant(("column", values, dtype), lambda: mx.array([[value] for value in values], dtype))

    def places(self, values: tuple[int, ...]) -> mx.array:
        """Indices `[n]`, kept on the device."""
        return self._constant(("places", values), lambda: mx.array(values, mx.uint32))

    def numbers(self, count: int) -> mx.array:
        """0 to count - 1, uint32 `[1, count]`, kept on the device."""
        return self._constant(("numbers", count), lambda: mx.array(np.arange(count, dtype=np.uint32)[None]))

    def _constant(self, key: tuple[object, ...], make: Callable[[], mx.array]) -> mx.array:
        found = self._constants.get(key)
        if found is None:
            # Made on the host: there is nothing to launch or to wait for.
            found = self._constants[key] = make()
            if len(self._constants) > _KEPT_CONSTANTS:
                self._constants.popitem(last=False)
        self._constants.move_to_end(key)
        return found
