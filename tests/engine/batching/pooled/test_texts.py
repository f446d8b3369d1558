"""Which texts run together, and how their hidden states become vectors."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.pooled import Pooling
from backend.engine.batching.pooled.texts import normalized, padded, picked, pooled
from backend.engine.batching.pooled.units import chance, pieces


@pytest.mark.parametrize("pooling", ["last", "mean", "none"])
@pytest.mark.parametrize("cut", [5, 1, 4])
def test_pieces_of_a_text_give_the_vector_of_the_whole(pooling: Pooling, cut: int) -> None:
    hidden = mx.random.normal((5, 8), key=mx.random.key(1))
    parts = [part for part in (hidden[:cut], hidden[cut:]) if part.shape[0]]
    arrays = [np.array(picked(part[None], [part.shape[0]], pooling)) for part in parts]
    arrays = [array[0] for array in arrays] if pooling == "none" else arrays
    whole = np.array(hidden)
    expected = {"last": whole[-1:], "mean": whole.mean(axis=0)[None], "none": whole}[pooling]
    assert np.allclose(pooled(arrays, 5, pooling, normalize=False), expected, atol=1e-6)
    lengths = np.linalg.norm(pooled(arrays, 5, pooling, normalize=True), axis=-1)
    assert np.allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean", "none"])
def test_what_is_picked_of_rows_is_theirs_whatever_their_padding_holds(pooling: Pooling) -> None:
    hidden, lengths = np.full((4, 6, 8), np.inf, np.float32), [2, 6, 5]
    rng = np.random.default_rng(3)
    for row, length in enumerate(lengths):
        hidden[row, :length] = rng.normal(size=(length, 8))
    found = np.array(picked(mx.array(hidden), lengths, pooling))
    for row, length in enumerate(lengths):
        own = hidden[row, :length]
        expected = {"last": own[-1], "mean": own.sum(axis=0), "none": own}[pooling]
        assert np.allclose(found[row, :length] if pooling == "none" else found[row], expected, atol=1e-6)


def test_rows_are_padded_on_the_right_and_below() -> None:
    rows = padded([np.array([1, 2], np.int32), np.array([3], np.int32)], (3, 4))
    assert rows.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]]


def test_nothing_is_divided_by_zero() -> None:
    assert not normalized(np.zeros((2, 3), np.float32)).any()


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 64), st.integers(1, 64))
def test_the_passes_of_a_tail_are_its_tokens_and_logits_are_of_its_end(
    length: int, wanted: int, chunk: int, most: int
) -> None:
    wanted = min(wanted, length)
    planned = pieces(length, wanted, chunk=chunk, most=most)
    assert [token for start, end, _ in planned for token in range(start, end)] == list(range(length))
    assert all(end - start <= (min(chunk, most) if logits else chunk) for start, end, logits in planned)
    with_logits = sum(end - start for start, end, logits in planned if logits)
    assert with_logits >= wanted


def test_a_chance_is_that_of_a_softmax_however_far_apart_the_logits_are() -> None:
    for yes, no in ((0.0, 0.0), (3.0, -1.0), (-2.5, 4.0)):
        expected = np.exp(yes) / (np.exp(yes) + np.exp(no))
        assert chance((yes, no)) == pytest.approx(expected, rel=1e-12)
    assert (chance((1e4, -1e4)), chance((-1e4, 1e4))) == (1.0, 0.0)
