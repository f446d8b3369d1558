import numpy as np
import pytest

from backend.core.constraint import Constraint
from backend.core.request import Sampling
from backend.engine.sampling.noise import Purpose
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import CODE_FAILED
from tests.engine.sampling.building import EOS, OnlyThese, row


def test_an_accepted_token_advances_the_constraint_and_the_random_position() -> None:
    grammar = OnlyThese([2], 8)
    subject = row(constraint=grammar, seed=5)
    before = subject.key(Purpose.TOKEN)
    subject.accept(2)
    assert grammar.told == [2]
    assert subject.step == 1
    assert subject.key(Purpose.TOKEN) != before


@pytest.mark.parametrize("call", ["mask", "advance"])
def test_a_grammar_that_raises_is_that_rows_error(call: str) -> None:
    class Broken(OnlyThese):
        def mask(self) -> np.ndarray | None:
            if call == "mask":
                raise RuntimeError("out of items")
            return super().mask()

        def advance(self, token: int) -> None:
            raise RuntimeError("out of items")

    subject = row(constraint=Broken([2], 8))
    if call == "mask":
        assert subject.allowed() is None
    else:
        subject.accept(2)
    assert subject.error == CODE_FAILED
    assert isinstance(subject.fault, RuntimeError)


def test_a_grammars_own_error_is_that_rows_error() -> None:
    grammar = OnlyThese([2], 8)
    grammar.error = "too many items"
    subject = row(constraint=grammar)
    subject.allowed()
    assert subject.error == "too many items"


def test_end_of_sequence_is_allowed_once_the_grammar_is_finished_even_if_it_is_to_be_ignored() -> None:
    grammar = OnlyThese([EOS], 8)
    subject = row(constraint=grammar, ignore_eos=True)
    assert subject.forbids_eos()
    grammar.finished = True
    assert not subject.forbids_eos()


def test_addends_for_one_token_are_summed() -> None:
    subject = row(logit_bias=((4, 1.0), (2, 0.5), (4, 2.0)))
    assert dict(zip(subject.bias_ids.tolist(), subject.bias_values.tolist(), strict=True)) == {4: 3.0, 2: 0.5}


def test_only_a_row_with_a_grammar_waits_for_its_last_token() -> None:
    grammar: Constraint = OnlyThese([2], 8)
    assert row(constraint=grammar).needs_last_token
    assert not row().needs_last_token


def test_history_is_kept_only_for_rows_with_penalties() -> None:
    def window_of(**settings: float) -> object:
        return RowSampling(
            Sampling(**settings),  # pyright: ignore[reportArgumentType]
            prompt=np.array([1, 2], np.int32),
            eos_ids=frozenset(),
            top_logprobs=None,
        ).window

    assert window_of(temperature=1.0) is None
    for name, value in (("repetition_penalty", 1.1), ("presence_penalty", -0.1), ("frequency_penalty", 0.1)):
        assert window_of(**{name: value}) is not None
