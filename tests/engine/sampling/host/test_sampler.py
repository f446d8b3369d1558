from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from backend.engine.sampling.host import sampler as host_sampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import DRAW_FAILED, NO_TOKEN, NOT_FINITE, NOTHING_ALLOWED, Sampled
from tests.engine.sampling import reference
from tests.engine.sampling.building import EOS, MIXED, OnlyThese, lazy, random_logits, row

sampler = HostSampler()


def sample(logits: np.ndarray, *rows: RowSampling) -> Sampled:
    return sampler.sample(lazy(logits), rows)


def test_a_greedy_row_takes_the_largest_and_of_equals_the_lowest_id() -> None:
    logits = random_logits(1, 3000)
    logits[0, [70, 2900]] = 50.0
    assert sample(logits, row()).tokens == [70]


def test_a_greedy_row_heeds_bias_penalties_and_masks() -> None:
    logits = np.zeros((4, 64), np.float32)
    logits[:, [EOS, 9]] = (3.0, 2.0)
    rows = (
        row(logit_bias=((20, 9.0),)),
        row([EOS], presence_penalty=2.0),
        row(ignore_eos=True),
        row(constraint=OnlyThese([33, 40], 64)),
    )
    assert sample(logits, *rows).tokens == [20, 9, 9, 33]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("vocab", [1000, 32_000])
def test_a_row_gets_the_same_tokens_whatever_shares_its_batch(vocab: int, dtype: mx.Dtype) -> None:
    history = [3, 5, 3, 900]

    def fresh() -> list[RowSampling]:
        return [row(history, seed=n * 7 - 90, top_logprobs=3, **MIXED[n % len(MIXED)]) for n in range(32)]

    together, alone, shuffled = fresh(), fresh(), fresh()
    order = np.random.default_rng(1).permutation(32)
    for step in range(3):
        logits = lazy(random_logits(32, vocab, seed=step), dtype)
        mixed = sampler.sample(logits, together)
        assert mixed.errors == {}
        other = sampler.sample(logits[mx.array(order)], [shuffled[n] for n in order])
        for n in range(32):
            single = sampler.sample(logits[n : n + 1], [alone[n]])
            place = order.tolist().index(n)
            assert mixed.tokens[n] == single.tokens[0] == other.tokens[place]
            assert mixed.logprobs[n] == single.logprobs[0] == other.logprobs[place]
        for rows in (together, alone, shuffled):
            for n in range(32):
                rows[n].accept(mixed.tokens[n])


@pytest.mark.parametrize("seed", [0, -1, 1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)])
def test_a_seed_repeats_its_answer_and_no_other_seeds(seed: int) -> None:
    def answer(one_seed: int) -> list[int]:
        subject = row(temperature=1.0, seed=one_seed)
        tokens = []
        for step in range(20):
            tokens += sample(random_logits(1, 500, seed=step, spread=0.5), subject).tokens
            subject.accept(tokens[-1])
        return tokens

    first = answer(seed)
    assert first == answer(seed)
    assert first != answer(seed // 2 + 12345)


@pytest.mark.parametrize("settings", MIXED)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_their_row_alone(broken: float, settings: dict[str, Any]) -> None:
    logits = random_logits(3, 2000)
    expected = sample(logits, *(row(**settings) for _ in range(3)))
    logits[1, 1234] = broken
    found = sample(logits, *(row(**settings) for _ in range(3)))
    assert found.errors == {1: NOT_FINITE}
    assert found.tokens == [expected.tokens[0], NO_TOKEN, expected.tokens[2]]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("place", [EOS, 40])
def test_what_is_not_finite_fails_its_row_even_where_it_is_masked(broken: float, place: int) -> None:
    logits = random_logits(1, 64)
    logits[0, place] = broken
    assert sample(logits, row(constraint=OnlyThese([3], 64), ignore_eos=True)).errors == {0: NOT_FINITE}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_which_nothing_is_allowed_fails_alone(temperature: float) -> None:
    logits = random_logits(2, 64)
    stuck = row(temperature=temperature, constraint=OnlyThese([EOS], 64), ignore_eos=True)
    found = sample(logits, stuck, row())
    assert found.errors == {0: NOTHING_ALLOWED}
    assert found.tokens[1] == int(logits[1].argmax())


def test_a_failed_grammar_fails_its_row_alone() -> None:
    grammar = OnlyThese([2], 64)
    grammar.error = "too many items"
    found = sample(random_logits(2, 64), row(constraint=grammar), row())
    assert found.errors == {0: "too many items"}


def test_logprobs_are_the_models_own_before_anything_is_done_to_the_logits() -> None:
    logits = random_logits(1, 5000)
    logits[0, [10, 20]] = logits.max() + 1.0
    subject = row([10], top_logprobs=5, temperature=0.5, top_k=2, logit_bias=((77, 90.0),), presence_penalty=1.0)
    found = sample(logits, subject)
    wide = reference.log_softmax(logits[0].astype(np.float64))
    expected = reference.by_rank(wide, list(range(5000)))[:5]
    assert found.tokens == [77]
    (logprobs,) = found.logprobs
    assert logprobs is not None
    assert logprobs.top_ids == tuple(expected)
    np.testing.assert_allclose(logprobs.top, wide[expected], atol=1e-5)
    assert logprobs.chosen == pytest.approx(wide[77], abs=1e-5)


def test_logprobs_are_given_to_rows_that_ask_and_as_many_as_they_ask() -> None:
    logits = random_logits(3, 100)
    found = sample(logits, row(), row(top_logprobs=0), row(top_logprobs=20))
    assert found.logprobs[0] is None
    counts = [len(logprobs.top_ids) for logprobs in found.logprobs if logprobs is not None]
    assert counts == [0, 20]


def test_sampling_leaves_the_models_logits_as_they_were() -> None:
    logits = lazy(random_logits(len(MIXED), 300))
    before = np.array(logits)
    sampler.sample(logits, [row([1, 2, 3], **settings) for settings in MIXED])
    np.testing.assert_array_equal(np.array(logits), before)


def test_sampling_twice_without_accepting_gives_the_same() -> None:
    logits = random_logits(1, 300, spread=0.1)
    subject = row(temperature=1.0, seed=3)
    assert sample(logits, subject).tokens == sample(logits, subject).tokens


def test_a_draw_that_raises_is_the_fault_of_its_row_and_its_words_are_for_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row(temperature=1.0, seed=seed) for seed in range(3)]
    sound, logits = host_sampler.drawn, random_logits(3, 300)
    right = sample(logits, *rows).tokens

    def failing(drawing: list[tuple[Any, RowSampling]]) -> list[int]:
        if any(one is rows[1] for _, one in drawing):
            raise RuntimeError("planted")
        return sound(drawing)

    monkeypatch.setattr(host_sampler, "drawn", failing)
    sampled = sample(logits, *rows)
    assert sampled.tokens == [right[0], NO_TOKEN, right[2]] and sampled.errors == {1: DRAW_FAILED}
    assert isinstance(rows[1].fault, RuntimeError) and rows[1].error == DRAW_FAILED
