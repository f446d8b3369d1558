from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.sampling.penalties import PenaltyWindow

tokens = st.lists(st.integers(0, 6), max_size=40)
sizes = st.one_of(st.none(), st.integers(0, 12))


def as_counter(counts: tuple[np.ndarray, np.ndarray]) -> Counter[int]:
    ids, numbers = (array.tolist() for array in counts)
    assert len(set(ids)) == len(ids)
    assert all(number > 0 for number in numbers)
    return Counter(dict(zip(ids, numbers, strict=True)))


def last(history: list[int], size: int | None) -> list[int]:
    return history if size is None else history[max(0, len(history) - size) :]


@given(prompt=tokens, answer=tokens, size=sizes)
def test_counts_are_those_of_the_last_tokens_of_prompt_and_answer(
    prompt: list[int], answer: list[int], size: int | None
) -> None:
    window = PenaltyWindow(np.array(prompt, np.int32), size)
    for length, token in enumerate(answer, start=1):
        window.add(token)
        assert as_counter(window.counts()) == Counter(last(prompt + answer[:length], size))


@given(prompt=tokens, size=sizes, coming=st.integers(0, 15))
def test_tokens_to_come_push_the_oldest_out_before_they_are_known(
    prompt: list[int], size: int | None, coming: int
) -> None:
    window = PenaltyWindow(np.array(prompt, np.int32), size)
    before = as_counter(window.counts())
    unknown = [99] * coming
    expected = Counter(token for token in last(prompt + unknown, size) if token != 99)
    assert as_counter(window.counts_before(coming)) == expected
    assert as_counter(window.counts()) == before
