import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.request import Sampling
from backend.engine.sampling.host.processors import processed
from backend.engine.sampling.row_sampling import RowSampling
from tests.engine.sampling import reference
from tests.engine.sampling.building import EOS, OnlyThese, random_logits, row

VOCAB = 50

samplings = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.1]),
    penalty_window=st.sampled_from([None, 0, 1, 5, 64]),
    logit_bias=st.sampled_from([(), ((3, 2.0),), ((0, -100.0), (49, 1.0), (3, 0.5), (3, 0.25))]),
    ignore_eos=st.booleans(),
)


@given(
    sampling=samplings,
    history=st.lists(st.integers(0, 9), max_size=30),
    known=st.integers(0, 30),
    allowed=st.sampled_from([None, {0, 3, EOS}, {31, 32, 49}]),
    seed=st.integers(0, 99),
)
def test_edits_are_those_of_the_reference(
    sampling: Sampling, history: list[int], known: int, allowed: set[int] | None, seed: int
) -> None:
    subject = RowSampling(
        sampling,
        prompt=np.array(history[:known], np.int32),
        eos_ids=frozenset([EOS]),
        top_logprobs=None,
        constraint=None if allowed is None else OnlyThese(sorted(allowed), VOCAB),
    )
    for token in history[known:]:
        subject.accept(token)
    logits = random_logits(1, VOCAB, seed=seed)[0]
    untouched = logits.copy()
    expected = reference.edit(logits.astype(np.float64), sampling, history, {EOS}, allowed)
    np.testing.assert_allclose(processed(logits, subject), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits, untouched)


def test_a_row_without_edits_gets_its_own_array_back() -> None:
    logits = random_logits(1, VOCAB)[0]
    assert processed(logits, row(temperature=1.0, top_k=3)) is logits


@pytest.mark.parametrize("mask_vocab", [32, 64])
def test_a_mask_may_be_shorter_or_longer_than_the_logits(mask_vocab: int) -> None:
    logits = random_logits(1, VOCAB)[0]
    out = processed(logits, row(constraint=OnlyThese([3, 31], mask_vocab)))
    assert np.flatnonzero(out > -np.inf).tolist() == [3, 31]


def test_ids_beyond_the_vocabulary_are_left_out() -> None:
    subject = RowSampling(
        Sampling(presence_penalty=1.0, ignore_eos=True),
        prompt=np.array([2, VOCAB, 99], np.int32),
        eos_ids=frozenset([1, 70]),
        top_logprobs=None,
    )
    logits = random_logits(1, VOCAB)[0]
    out = processed(logits, subject)
    changed = np.flatnonzero(out != logits).tolist()
    assert changed == [1, 2]
