"""When two answers to one request agree."""

from backend.check.asking import Asked
from backend.check.teacher import Agreement, Bound, agreement
from backend.core.events import Finished, FinishReason, Piece, TokenLogprob, Usage

BOUND = Bound(0.1, experts=False)
Step = tuple[int, float, dict[int, float]]


def answer(*steps: Step) -> Asked:
    """Of steps: the token, its logprob, its alternatives."""
    entries = tuple(
        TokenLogprob(
            id=token,
            token=b"",
            logprob=logprob,
            top=tuple(TokenLogprob(id=other, token=b"", logprob=value) for other, value in top.items()),
        )
        for token, logprob, top in steps
    )
    usage = Usage(prompt_tokens=1, completion_tokens=len(entries))
    return Asked(began=0.0, end=Finished(reason=FinishReason.LENGTH, piece=Piece(), usage=usage, logprobs=entries))


def outcome(ours: Asked, theirs: Asked, *, bound: Bound = BOUND, greedy: bool = True) -> str:
    found = agreement(ours, theirs, bound, greedy=greedy)
    return next(name for name in ("equal", "within", "beyond") if getattr(found, name))


FIRST: Step = (1, -0.5, {1: -0.5, 2: -1.5})


def test_the_same_tokens_within_the_bound_are_equal() -> None:
    assert outcome(answer(FIRST), answer((1, -0.55, {1: -0.55, 2: -1.45}))) == "equal"


def test_a_logprob_beyond_the_bound_is_wrong_though_the_tokens_are_the_same() -> None:
    assert outcome(answer(FIRST), answer((1, -0.7, {1: -0.7, 2: -1.5}))) == "beyond"
    assert outcome(answer(FIRST), answer((1, -0.5, {1: -0.5, 2: -1.7}))) == "beyond"


def test_an_answer_that_ends_sooner_is_wrong() -> None:
    assert outcome(answer(FIRST, FIRST), answer(FIRST)) == "beyond"


def test_a_greedy_token_may_part_only_where_the_two_best_are_within_the_bound() -> None:
    close, other = answer((1, -0.50, {1: -0.50, 2: -0.55})), answer((2, -0.52, {2: -0.52, 1: -0.53}))
    assert outcome(close, other) == "within"
    far, other = answer((1, -0.5, {1: -0.5, 2: -0.9})), answer((2, -0.9, {1: -0.5, 2: -0.9}))
    assert outcome(far, other) == "beyond"


def test_what_comes_after_a_parting_has_no_measure() -> None:
    close, other = (1, -0.50, {1: -0.50, 2: -0.55}), (2, -0.52, {2: -0.52, 1: -0.53})
    assert outcome(answer(close, (5, -9.0, {5: -9.0})), answer(other, (7, -1.0, {7: -1.0}))) == "within"


def test_alternatives_that_have_nothing_in_common_are_wrong() -> None:
    assert outcome(answer((1, -0.5, {1: -0.5})), answer((2, -0.5, {2: -0.5}))) == "beyond"


def test_half_the_steps_of_experts_may_be_off() -> None:
    ours, theirs = answer(FIRST, FIRST, FIRST), answer(FIRST, FIRST, (1, -1.5, {1: -1.5, 2: -0.4}))
    assert outcome(ours, theirs) == "beyond"
    assert outcome(ours, theirs, bound=Bound(0.1, experts=True)) == "equal"


def test_draws_may_part_as_often_as_roundings_explain() -> None:
    other: Step = (2, -1.5, {1: -0.5, 2: -1.5})
    exact = agreement(answer(FIRST), answer(other), BOUND, greedy=False)
    assert (exact.within, exact.parted, exact.chance) == (1, 1, 0.0)
    assert exact.right  # one may be a coincidence
    assert not (exact + exact).right
    rounded: Step = (2, -1.45, {1: -0.55, 2: -1.45})
    rough = agreement(answer(*[FIRST] * 9, FIRST), answer(*[FIRST] * 9, rounded), BOUND, greedy=False)
    assert rough.chance > 0.05
    assert sum([rough] * 20, Agreement()).right is (1 + 3 * 20 * rough.chance >= 20)


def test_sets_add_up() -> None:
    total = Agreement(equal=2, worst=0.1) + Agreement(within=1, beyond=1, worst=0.3, parted=1, chance=0.5)
    assert total == Agreement(2, 1, 1, 0.3, 1, 0.5)
    assert not total.right
    assert "2 equal, 1 with tokens that differ within the bound, 1 beyond it" in total.told(BOUND)
