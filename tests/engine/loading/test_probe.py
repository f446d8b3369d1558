"""What the probe finds in models that misbehave, with caches of mlx-lm as they are."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ConcatenateKVCache, KVCache

from backend.engine.loading.probe import ProbeFailed, probe

VOCAB, WIDTH = 16, 8


class MeanModel:
    """Each position's logits come from the mean of all positions up to it; made to go wrong by `change`."""

    def __init__(self, change: Callable[[mx.array], mx.array] = lambda logits: logits, *, masked: bool = True) -> None:
        self._change = change
        self._masked = masked
        self._embedding = mx.random.normal((VOCAB, WIDTH), key=mx.random.key(1))

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        rows, count = tokens.shape
        values = self._embedding[tokens][:, None]
        mask = cache[0].make_mask(count, return_array=True, window_size=None) if self._masked else None
        _, seen = cache[0].update_and_fetch(values, values)
        weights = mx.ones((rows, 1, count, seen.shape[2])) if mask is None else mask.astype(mx.float32)
        weights = mx.broadcast_to(weights, (rows, 1, count, seen.shape[2]))
        mean = (weights @ seen) / weights.sum(axis=-1, keepdims=True)
        return self._change((mean @ self._embedding.T)[:, 0])


def plain() -> list[Any]:
    return [KVCache()]


def test_a_sound_model_may_be_batched() -> None:
    result = probe(MeanModel(), plain)
    assert result.vocab_size == VOCAB
    assert result.serial_reason == ""
    assert result.kv_cost.per_token == 2 * WIDTH * 4


def test_a_model_that_attends_to_padding_is_found_out() -> None:
    assert "rows decode differently together" in probe(MeanModel(masked=False), plain).serial_reason


def test_caches_without_a_merge_are_served_alone() -> None:
    assert "no attribute 'merge'" in probe(MeanModel(), lambda: [ConcatenateKVCache()]).serial_reason


def test_a_model_that_takes_one_row_only_is_served_alone() -> None:
    def one_row(logits: mx.array) -> mx.array:
        if logits.shape[0] > 1:
            raise ValueError("one row at a time")
        return logits

    assert probe(MeanModel(one_row), plain).serial_reason == "caches cannot be batched: one row at a time"


def test_nan_that_comes_only_beside_other_rows_is_found_out() -> None:
    def spoiled(logits: mx.array) -> mx.array:
        return logits * float("nan") if logits.shape[0] > 1 else logits

    assert "rows decode differently together" in probe(MeanModel(spoiled), plain).serial_reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda logits: logits[0], r"logits have shape \(6, 16\)"),
        (lambda logits: logits[:, -1:], r"logits have shape \(1, 1, 16\)"),
        (lambda logits: logits * float("nan"), "not numbers"),
        (lambda logits: logits.item(), r"."),
    ],
)
def test_a_model_without_usable_logits_does_not_run(change: Callable[[mx.array], mx.array], says: str) -> None:
    with pytest.raises(ProbeFailed, match=says):
        probe(MeanModel(change), plain)
