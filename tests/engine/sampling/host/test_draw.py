from typing import Any

import numpy as np
import pytest

from backend.engine.sampling.host.draw import drawn
from backend.engine.sampling.host.restrict import Candidates, restricted
from backend.engine.sampling.noise import Purpose, gumbel
from backend.engine.sampling.row_sampling import RowSampling
from tests.engine.sampling import reference
from tests.engine.sampling.building import random_logits, row
from tests.engine.sampling.test_noise import chi_square, limit

DRAWS = 8_000


def drawn_alone(candidates: Candidates, subject: RowSampling) -> int:
    return drawn([(candidates, subject)])[0]


def draws(logits: np.ndarray, subject: RowSampling, count: int = DRAWS) -> np.ndarray:
    """How often each token is drawn in that many steps, `[vocab]`."""
    counts = np.zeros(len(logits), np.int64)
    candidates = restricted(logits, logits.max(), subject)
    for _ in range(count):
        token = drawn_alone(candidates, subject)
        subject.accept(token)
        counts[token] += 1
    return counts


def pooled(counts: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with all tokens expected under 10 times taken as one."""
    rare = expected < 10
    if not rare.any():
        return counts, expected
    return np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum() + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "settings"),
    [
        (2, {"temperature": 1.0}),
        (256, {"temperature": 1.0}),
        (700, {"temperature": 0.6}),
        (700, {"temperature": 1.5, "top_k": 30}),
        (700, {"temperature": 1.0, "top_p": 0.95}),
        (256, {"temperature": 1.0, "min_p": 0.02}),
        (700, {"temperature": 1.0, "typical_p": 0.8}),
    ],
)
def test_draws_follow_the_distribution(vocab: int, settings: dict[str, Any]) -> None:
    logits = random_logits(1, vocab, seed=3, spread=1.5)[0]
    subject = row(seed=17, **settings)
    counts = draws(logits, subject)
    wide = logits.astype(np.float64)
    ids = reference.restrict(wide, subject.sampling, set(), xtc=False)
    expected = reference.probabilities(wide, subject.sampling, ids) * DRAWS
    assert counts[expected == 0].sum() == 0
    if (expected > 0).sum() > 1:
        counts, expected = pooled(counts, expected)
        assert chi_square(counts, expected) < limit(max(1, len(counts) - 1))


def test_first_draws_of_many_seeds_follow_the_distribution() -> None:
    logits = random_logits(1, 600, seed=5, spread=1.5)[0]
    counts = np.zeros(600, np.int64)
    for seed in range(DRAWS):
        counts[drawn_alone(Candidates(logits, logits.max()), row(temperature=1.0, seed=seed - DRAWS // 2))] += 1
    wide = logits.astype(np.float64)
    expected = reference.probabilities(wide, row(temperature=1.0).sampling, list(range(600))) * DRAWS
    counts, expected = pooled(counts, expected)
    assert chi_square(counts, expected) < limit(len(counts) - 1)


def test_draws_of_two_steps_are_independent() -> None:
    logits = np.zeros(8, np.float32)
    subject = row(temperature=1.0, seed=1)
    candidates = Candidates(logits, logits.max())
    pairs = np.zeros((8, 8), np.int64)
    last = 0
    for _ in range(DRAWS):
        token = drawn_alone(candidates, subject)
        subject.accept(token)
        pairs[last, token] += 1
        last = token
    assert chi_square(pairs.ravel(), DRAWS / 64) < limit(63)


def test_candidates_as_a_list_and_as_a_cut_draw_the_same_tokens() -> None:
    logits = random_logits(1, 1111, spread=0.5)[0]
    wide = Candidates(logits, logits.max()).above(float(np.quantile(logits, 0.9)))
    listed = wide.listed()
    assert wide.ids is None
    assert listed.ids is not None
    for seed in range(500):
        subject = row(temperature=1.0, seed=seed)
        assert drawn_alone(wide, subject) == drawn_alone(listed, subject)


def test_candidates_far_below_the_peak_keep_their_proportions_at_a_low_temperature() -> None:
    logits = np.full(1000, -9.0, np.float32)
    logits[0], logits[900] = 50.0, -8.0
    left = Candidates(logits, logits.max(), ids=np.arange(1, 1000))
    assert {drawn_alone(left, row(temperature=0.01, seed=seed)) for seed in range(20)} == {900}


@pytest.mark.parametrize("temperature", [0.001, 100.0])
def test_extreme_temperatures_draw_candidates_only(temperature: float) -> None:
    logits = random_logits(1, 3000, spread=30.0)[0]
    logits[::2] = -np.inf
    for seed in range(200):
        subject = row(temperature=temperature, seed=seed, xtc_probability=1.0, xtc_threshold=0.01)
        assert drawn_alone(restricted(logits, logits.max(), subject), subject) % 2 == 1


def test_rows_drawn_together_get_the_tokens_and_the_noise_that_they_get_alone() -> None:
    vocab = 5000
    kinds: list[dict[str, Any]] = [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.2}, {"top_k": 1}]
    logits = random_logits(40, vocab, spread=2.0)
    subjects = [row(temperature=0.5 + index / 20, seed=index, **kinds[index % 5]) for index in range(40)]
    rows = [(restricted(values, values.max(), one), one) for values, one in zip(logits, subjects, strict=True)]
    assert drawn(rows) == [drawn_alone(*one) for one in rows]
    parts = [np.arange(length) for length in range(1, 40)]
    keys = [one.key(Purpose.TOKEN) for one in subjects[1:]]
    low, high = np.array(keys, np.uint32).T.repeat([len(part) for part in parts], axis=1)
    together = gumbel(np.concatenate(parts), (low, high))
    alone = np.concatenate([gumbel(part, key) for part, key in zip(parts, keys, strict=True)])
    assert together.tobytes() == alone.tobytes()
