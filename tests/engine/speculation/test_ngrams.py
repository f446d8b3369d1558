"""The index of a sequence against a search of all of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.speculation.ngrams import LONGEST, ORDERS, Ngrams

TOKENS = st.lists(st.integers(0, 3) | st.sampled_from([149_999, 2**31 - 1]), max_size=60)


def indexed(tokens: list[int]) -> Ngrams:
    return Ngrams(np.array(tokens, np.int32))


def latest(text: list[int], end: list[int]) -> int | None:
    """The position after the last place in `text` where `end` stands, the very end of it excepted."""
    n = len(end)
    places = [i for i in range(n, len(text)) if text[i - n : i] == end]
    return places[-1] if places else None


@given(TOKENS, TOKENS, TOKENS)
def test_what_is_found_is_the_latest_place_however_the_tokens_came(first, second, third) -> None:
    index = indexed(first)
    index.extend(second)
    for token in third:
        index.append(token)
    tokens = first + second + third
    assert len(index) == len(tokens)
    assert index.take(0, 1000) == tokens
    for which, order in enumerate(ORDERS):
        wanted = latest(tokens, tokens[-order:]) if len(tokens) >= order else None
        found = index.find(which, index)
        # One of few tokens rarely loses its place to another.
        assert found is None or found[0] == wanted
        if found:
            at, matched = found
            assert tokens[at - matched : at] == tokens[-matched:]
            assert matched in (LONGEST, at) or tokens[at - matched - 1] != tokens[-matched - 1]


@given(TOKENS, TOKENS)
def test_the_end_of_another_sequence_is_found(text, answer) -> None:
    index, other = indexed(text), indexed(answer)
    for which, order in enumerate(ORDERS):
        wanted = latest(text, answer[-order:]) if len(answer) >= order else None
        found = index.find(which, other)
        assert found is None or found[0] == wanted


@pytest.mark.parametrize("vocab", [100, 150_000])
@pytest.mark.parametrize("n", [500, 20_000])
def test_nearly_all_that_is_there_is_found(vocab, n) -> None:
    text = np.random.default_rng(n).integers(0, vocab, n).tolist()
    index = indexed(text)
    for which, order in enumerate(ORDERS):
        ends = [text[i - order : i] for i in range(order, n - 1, max(1, n // 500))]
        # Those that stand at one place only: whatever else has their place in the table, it is the later one.
        found = [index.find(which, indexed(end)) for end in ends]
        assert sum(one is not None for one in found) > 0.75 * len(ends)


def test_the_very_first_tokens_are_found() -> None:
    tokens = [1, 2, 3, 1, 2, 3]
    for given_first in range(7):
        index = indexed(tokens[:given_first])
        for token in tokens[given_first:]:
            index.append(token)
        assert [index.find(which, index) for which in (0, 1)] == [(3, 3), (3, 3)]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 255, 256, 257])
def test_a_sequence_of_any_length_can_grow(n) -> None:
    index = indexed(list(range(n)))
    for token in [7, 8, 9] * 200:
        index.append(token)
    assert index.find(0, index) == (len(index) - 3, LONGEST)


def test_an_index_of_a_long_prompt_takes_56_bytes_a_token_at_most() -> None:
    for n in (65_536, 65_537, 100_000):
        index = Ngrams(np.zeros(n, np.int32))
        assert index.nbytes <= 56 * n + 64
