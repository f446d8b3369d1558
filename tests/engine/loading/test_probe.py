"""What the probe finds in models that misbehave, with caches of mlx-lm as they are."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ConcatenateKVCache, KVCache

from backend.engine.loading.probe import ProbeFailed, Reach, probe, reach_of
from backend.engine.loading.probe.company import Compared

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
        return self._change((mean @ self._embedding.T)[:, 0].astype(self._embedding.dtype))


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
        (lambda logits: logits[0], r"logits have shape \(24, 16\)"),
        (lambda logits: logits[:, -1:], r"logits have shape \(1, 1, 16\)"),
        (lambda logits: logits * float("nan"), "not numbers"),
        (lambda logits: logits.item(), r"."),
    ],
)
def test_a_model_without_usable_logits_does_not_run(change: Callable[[mx.array], mx.array], says: str) -> None:
    with pytest.raises(ProbeFailed, match=says):
        probe(MeanModel(change), plain)


class Remembering:
    """A layer cache of a class that nobody knows: it holds the sum of what it has seen, and how much that was."""

    def __init__(self) -> None:
        self.offset = 0
        self.seen: mx.array | None = None

    @property
    def state(self) -> tuple[mx.array | None, mx.array]:
        return self.seen, mx.array(self.offset)

    @property
    def nbytes(self) -> int:
        return 0 if self.seen is None else self.seen.nbytes


class Outside(Remembering):
    """One whose number of tokens is kept where no copy of its attributes reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = iter(range(1, 10_000))


class SumModel:
    """Each position's logits come from the mean of all up to it, which the cache remembers as a sum."""

    def __init__(self, *, looks_ahead: bool = False) -> None:
        self._embedding = mx.random.normal((VOCAB, WIDTH), key=mx.random.key(2))
        self._looks_ahead = looks_ahead

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        (memory,) = cache
        values = self._embedding[tokens]
        before = mx.zeros((1, 1, WIDTH)) if memory.seen is None else memory.seen
        sums = before + mx.cumsum(values, axis=1)
        memory.seen, start = sums[:, -1:], memory.offset
        memory.offset += tokens.shape[1]
        counts = mx.arange(start + 1, memory.offset + 1)[None, :, None]
        mean = sums / counts + (mx.mean(values, axis=1, keepdims=True) if self._looks_ahead else 0.0)
        return mean @ self._embedding.T


def test_a_state_of_an_unknown_class_may_be_kept_where_a_copy_goes_on_as_the_original() -> None:
    result = probe(SumModel(), lambda: [Remembering()])
    assert (result.uncached_reason, result.kept_whole) == ("", frozenset({Remembering}))
    assert "merge" in result.serial_reason


def test_a_state_that_is_more_than_data_is_not_kept_and_says_why() -> None:
    result = probe(SumModel(), lambda: [Outside()])
    assert "Outside" in result.uncached_reason
    assert result.kept_whole == frozenset()


def test_nothing_is_kept_of_a_model_whose_prompt_is_more_than_its_pieces() -> None:
    result = probe(SumModel(looks_ahead=True), lambda: [Remembering()])
    assert result.uncached_reason == "a prompt that is read in other pieces gives other logits"


def test_a_model_that_goes_wrong_only_beyond_its_selection_is_found_out_without_reading_so_far() -> None:
    read: list[int] = []

    class Sparse(MeanModel):
        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            read.append(tokens.shape[1])
            logits = super().__call__(tokens, cache)
            # A padded row beyond 1,000 tokens sees something else than it does alone.
            return logits + (0.5 * logits[::-1] if logits.shape[0] > 1 and cache[0].size() > 1000 else 0.0)

    assert probe(Sparse(), plain).serial_reason == ""
    assert "rows decode differently together" in probe(Sparse(), plain, reach=Reach(selection=1000)).serial_reason
    assert max(read) < 100


def test_a_selection_that_cannot_be_tried_is_not_trusted() -> None:
    assert "could not be tried" in probe(MeanModel(), plain, reach=Reach(selection=10_000_000)).serial_reason


def test_a_model_whose_code_ends_the_process_does_not_run() -> None:
    class Exiting:
        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            raise SystemExit(3)

    with pytest.raises(ProbeFailed, match=r"wants to end the process \(exit 3\)"):
        probe(Exiting(), plain)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_a_sound_model_in_half_precision_may_be_batched_and_an_unsound_one_may_not(dtype: mx.Dtype) -> None:
    def halved(model: MeanModel) -> MeanModel:
        model._embedding = model._embedding.astype(dtype)
        return model

    assert probe(halved(MeanModel()), plain).serial_reason == ""
    assert "rows decode differently together" in probe(halved(MeanModel(masked=False)), plain).serial_reason


def test_the_tolerance_follows_the_models_own_noise_in_half_precision_and_never_excuses_much() -> None:
    assert Compared(0.0, 0.5, mx.float32).tolerance == 1e-3
    assert Compared(0.0, 0.0, mx.float16).tolerance == 1e-2
    assert Compared(0.0, 0.005, mx.float16).tolerance == pytest.approx(0.02)
    assert Compared(0.0, 0.5, mx.float16).tolerance == 3e-2
    assert Compared(0.0, 0.5, mx.bfloat16).tolerance == 3e-2


def test_noise_in_half_precision_does_not_excuse_what_is_wrong_in_company() -> None:
    def noisy(logits: mx.array) -> mx.array:
        share = 0.043 if logits.shape[0] > 1 else 0.02 if logits.shape[1] > 1 else 0.0
        span = mx.max(logits, axis=-1, keepdims=True) - mx.min(logits, axis=-1, keepdims=True)
        off = mx.where(mx.arange(VOCAB) == mx.argmax(logits, axis=-1, keepdims=True), share * span, 0.0)
        return logits + off.astype(logits.dtype)

    model = MeanModel(noisy)
    model._embedding = model._embedding.astype(mx.bfloat16)
    assert "rows decode differently together" in probe(model, plain).serial_reason


@pytest.mark.parametrize(
    ("config", "reach"),
    [
        ({"hidden_size": 64, "topk_group": 4, "num_experts_per_tok": 8, "use_sliding_window": True}, Reach()),
        ({"sliding_window": 128, "text_config": {"attention_chunk_size": 8192}}, Reach(window=8192)),
        ({"index_topk": 2048, "index_n_heads": 64}, Reach(selection=2048)),
        (
            {"text_config": {"sparse_attention_config": {"sparse_block_size": 128, "sparse_topk_blocks": 16}}},
            Reach(selection=2048),
        ),
        ({"blocksparse_block_size": 64, "blocksparse_num_local_blocks": 16}, Reach(selection=1024)),
        ({"block_size": 512}, Reach()),
    ],
)
def test_the_reach_of_a_model_is_read_from_its_configuration(config: dict[str, Any], reach: Reach) -> None:
    assert reach_of(config) == reach
