import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.sampling.selection import largest, nucleus_cut, ranked
from tests.engine.sampling.reference import by_rank, nucleus

sizes = st.sampled_from([1, 2, 7, 300, 1025, 3000, 20_011])
steps = st.sampled_from([0.0, 0.125, 1.0, 30.0])


def numbers(size: int, step: float, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(size) * 3
    return (np.round(values / step) * step if step else values).astype(np.float32)


@given(size=sizes, step=steps, seed=st.integers(0, 999), k=st.sampled_from([1, 2, 40, 300, 5000]))
def test_the_largest_are_those_of_a_full_sort_and_of_equals_the_first(
    size: int, step: float, seed: int, k: int
) -> None:
    values = numbers(size, step, seed)
    expected = by_rank(values.astype(np.float64), list(range(size)))[:k]
    assert largest(values, k).tolist() == sorted(expected)
    assert ranked(values, k).tolist() == expected


@given(size=sizes, step=steps, seed=st.integers(0, 999), share=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999]))
def test_a_nucleus_is_that_of_a_full_sort(size: int, step: float, seed: int, share: float) -> None:
    scores = numbers(size, step, seed)
    weights = np.exp(scores - scores.max()).astype(np.float64)
    mass = share * float(weights.sum())
    found = np.flatnonzero(scores >= nucleus_cut(scores, weights, mass)).tolist()
    candidates = [
        nucleus(scores.astype(np.float64), weights, list(range(size)), mass * (1 + hair)) for hair in (0.0, -1e-9, 1e-9)
    ]
    assert found in candidates


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.01, 1.0, 100.0])
def test_a_nucleus_of_more_than_all_is_all_that_weighs(spread: float) -> None:
    scores = (np.linspace(-1.0, 0.0, 20_000) * spread).astype(np.float32)
    weights = np.exp(scores)
    cut = nucleus_cut(scores, weights, float(weights.sum()) * (1 + 1e-6))
    assert weights[scores < cut].sum() == 0.0


def test_forbidden_scores_are_in_no_nucleus() -> None:
    scores = numbers(5000, 0.0, 1)
    scores[::2] = -np.inf
    weights = np.exp(scores)
    assert nucleus_cut(scores, weights, 0.999 * float(weights.sum())) > -np.inf
