from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.request import Sampling
from backend.engine.sampling.host.restrict import Candidates, restricted
from backend.engine.sampling.row_sampling import RowSampling
from tests import chosen
from tests.engine.sampling import reference
from tests.engine.sampling.building import EOS, random_logits, row

samplings = st.builds(
    Sampling,
    temperature=st.just(1.0),
    top_k=st.sampled_from([None, 1, 3, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.3, 0.9, 0.99]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    typical_p=st.sampled_from([1.0, 1.0, 0.3, 0.9]),
    xtc_probability=st.sampled_from([0.0, 0.0, 1.0]),
    xtc_threshold=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
)


def ids_of(candidates: Candidates) -> list[int]:
    if candidates.ids is not None:
        return candidates.ids.tolist()
    return np.flatnonzero((candidates.logits >= candidates.cut) & (candidates.logits > -np.inf)).tolist()


def subject_of(sampling: Sampling) -> RowSampling:
    return RowSampling(sampling, prompt=np.zeros(0, np.int32), eos_ids=frozenset([EOS]), top_logprobs=None)


@settings(max_examples=300 if chosen.thorough else 100)
@given(
    sampling=samplings,
    vocab=st.sampled_from([2, 5, 40, 300, 1500, 4000]),
    spread=st.sampled_from([0.05, 1.0, 4.0]),
    step=st.sampled_from([0.0, 0.25]),
    forbidden=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9999),
)
def test_what_is_left_is_what_the_reference_leaves(
    sampling: Sampling, vocab: int, spread: float, step: float, forbidden: float, seed: int
) -> None:
    logits = random_logits(1, vocab, seed=seed, spread=spread)[0]
    logits = (np.round(logits / step) * step).astype(np.float32) if step else logits
    drop = np.random.default_rng(seed).random(vocab) < forbidden
    drop[0] = False
    logits[drop] = -np.inf
    found = ids_of(restricted(logits, logits.max(), subject_of(sampling)))
    xtc = sampling.xtc_probability > 0.0
    wide = logits.astype(np.float64)
    assert any(found == ids for ids in reference.restrict_give_or_take(wide, sampling, {EOS}, xtc=xtc))


@pytest.mark.parametrize("spread", [0.001, 0.3, 3.0])
@pytest.mark.parametrize("settings_", [{"top_p": 0.95}, {"top_p": 0.5, "min_p": 0.2}, {"typical_p": 0.9}])
def test_a_flat_distribution_over_a_large_vocabulary_is_cut_exactly(spread: float, settings_: dict[str, Any]) -> None:
    logits = random_logits(1, 32_000, spread=spread)[0]
    sampling = Sampling(temperature=1.0, **settings_)
    found = ids_of(restricted(logits, logits.max(), subject_of(sampling)))
    expected = reference.restrict(logits.astype(np.float64), sampling, {EOS}, xtc=False)
    # Float32 weights may move the boundary by a few of the thousands of nearly equal tokens there.
    assert len(set(found) ^ set(expected)) <= 3


def test_a_list_of_ids_and_a_cut_mean_the_same() -> None:
    logits = random_logits(1, 2000)[0]
    everything = Candidates(logits, logits.max())
    cut = float(np.quantile(logits, 0.5))
    wide = everything.above(cut)
    assert wide.ids is None
    listed = wide.listed()
    assert listed.ids is not None
    assert ids_of(wide) == ids_of(listed)
    np.testing.assert_array_equal(wide.weights[listed.ids], listed.weights)
    assert wide.weights.sum() == pytest.approx(float(listed.weights.sum()))


def test_xtc_never_excludes_the_tokens_it_is_told_to_spare() -> None:
    logits = np.zeros(40, np.float32)
    logits[[EOS, 5, 6]] = (10.0, 9.9, 9.8)
    left = ids_of(restricted(logits, logits.max(), row(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1)))
    assert EOS in left
    assert 5 not in left
    assert 6 in left


def test_xtc_acts_at_the_rate_asked_for() -> None:
    subject = row(temperature=1.0, xtc_probability=0.25, seed=4)
    acted = 0
    for _ in range(4000):
        acted += subject.excludes_top_choices()
        subject.accept(0)
    assert abs(acted - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)
