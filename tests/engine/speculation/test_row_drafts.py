"""What a row proposes: how much of it is right, how likely it says it is, and what it never does."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.speculation.proposal import Drafter, Proposal
from backend.engine.speculation.row_drafts import LEAD_IN, Experience, RowDrafts
from tests.engine.speculation.texts import Tokens, draw, edited, noise

BOTH = frozenset({Drafter.TEXT, Drafter.CACHE})


def row(prompt: Tokens, **options) -> RowDrafts:
    return RowDrafts(prompt, **({"kinds": BOTH} | options))


def test_a_copy_of_the_prompt_is_proposed_to_its_end() -> None:
    drawn = np.random.default_rng(0)
    prompt = noise(8000, drawn)
    assert draw(row(prompt), prompt[2000:3000]).tokens_a_pass > 8.5


@pytest.mark.parametrize(("share", "least"), [(0.02, 6.0), (0.1, 2.8)])
def test_a_copy_with_changes_is_found_again_behind_each(share, least) -> None:
    drawn = np.random.default_rng(1)
    prompt = noise(8000, drawn)
    assert draw(row(prompt), edited(prompt[2000:4000], share, drawn)).tokens_a_pass > least


def test_a_single_other_token_costs_one_pass() -> None:
    drawn = np.random.default_rng(2)
    prompt = noise(500, drawn)
    changed = prompt[100:400].copy()
    changed[100] = 5000
    subject = row(prompt)
    for token in changed[:101].tolist():
        subject.told(token)
        proposal = subject.propose(8)
    assert proposal is not None
    assert list(proposal.tokens[:2]) == prompt[201:203].tolist()


@pytest.mark.parametrize(
    ("old", "new", "least"), [([1, 2], [3, 4], 4.5), ([6, 7, 1, 8, 9], [6, 7, 3, 8, 9], 4.5)], ids=["alone", "among"]
)
def test_a_copy_that_makes_the_same_change_again_and_again_stays_in_its_text(old, new, least) -> None:
    drawn = np.random.default_rng(10)
    parts = [noise(12, drawn) for _ in range(60)]
    prompt = np.concatenate([piece for part in parts for piece in (part, np.array(old, np.int32))])
    answer = np.concatenate([piece for part in parts for piece in (part, np.array(new, np.int32))])
    assert draw(row(prompt), answer).tokens_a_pass > least


def test_noise_is_not_drafted() -> None:
    drawn = np.random.default_rng(3)
    assert draw(row(noise(4000, drawn)), noise(2000, drawn)).drafted < 20


def test_a_text_whose_pairs_come_back_but_not_what_follows_is_soon_left_alone() -> None:
    drawn = np.random.default_rng(4)
    pairs = np.array([[7, 8, 9, x] for x in drawn.integers(100, 10_000, 1000)], np.int32).ravel()
    subject = row(pairs[:2000])
    draw(subject, pairs[2000:2400])
    then = draw(subject, pairs[2400:])
    assert then.promised_a_pass == pytest.approx(then.tokens_a_pass, rel=0.05)


@pytest.mark.parametrize("share", [0.0001, 0.05, 0.2])
def test_chances_are_kept(share) -> None:
    drawn = np.random.default_rng(5)
    prompt = noise(4000, drawn)
    result = draw(row(prompt), edited(prompt, share, drawn))
    assert result.promised_a_pass == pytest.approx(result.tokens_a_pass, rel=0.1)


def test_a_loop_is_drafted_beyond_its_own_end() -> None:
    subject = row(np.array([1, 2, 3, 1, 2, 3, 1, 2], np.int32))
    proposal = subject.propose(8)
    assert proposal is not None
    assert proposal.tokens == (3, 1, 2, 3, 1, 2, 3, 1)


def test_the_same_prompts_old_answer_is_proposed_from_the_first_token() -> None:
    drawn = np.random.default_rng(6)
    prompt, answer = noise(3000, drawn), noise(600, drawn)
    donor = np.concatenate([prompt[-LEAD_IN:], answer])
    assert draw(row(prompt, donor=donor), answer).tokens_a_pass > 8.5
    subject = row(prompt, donor=donor)
    proposal = subject.propose(4)
    assert proposal == Proposal(tuple(answer[:4].tolist()), Drafter.CACHE, proposal.chances if proposal else ())


def test_an_old_answer_begins_at_the_prompts_end_also_where_its_beginning_comes_again() -> None:
    drawn = np.random.default_rng(11)
    prompt, answer, other = noise(300, drawn), noise(30, drawn), noise(300, drawn)
    donor = np.concatenate([prompt[-LEAD_IN:], answer, prompt[-LEAD_IN:], other])
    proposal = row(prompt, donor=donor).propose(8)
    assert proposal is not None
    assert list(proposal.tokens) == answer[:8].tolist()


def test_a_donor_that_parts_before_the_prompts_end_is_not_followed_blindly() -> None:
    drawn = np.random.default_rng(12)
    prompt = noise(300, drawn)
    assert row(prompt, donor=np.concatenate([prompt[100 - LEAD_IN : 100], noise(300, drawn)])).propose(8) is None


def test_an_edited_prompts_old_answer_is_found_by_its_tokens() -> None:
    drawn = np.random.default_rng(7)
    start, answer = noise(3000, drawn), noise(600, drawn)
    ending = np.array([1, 2, 3, 4], np.int32)
    donor = np.concatenate([start[-LEAD_IN:], noise(20, drawn), ending, answer])
    prompt = np.concatenate([start, noise(25, drawn), ending])
    assert draw(row(prompt, donor=donor), answer).tokens_a_pass > 8.0


def test_nothing_is_drafted_behind_the_end() -> None:
    subject = row(np.array([5, 6, 7, 8, 2, 9, 9, 5, 6, 7], np.int32), eos_ids=[2])
    proposal = subject.propose(8)
    assert proposal is not None
    assert proposal.tokens == (8, 2)


@pytest.mark.parametrize("kinds", [frozenset(), frozenset({Drafter.GRAMMAR})])
def test_a_drafter_that_is_off_proposes_nothing(kinds) -> None:
    prompt = np.array([1, 2, 3] * 10, np.int32)
    assert row(prompt, kinds=kinds, donor=prompt).propose(8) is None


def test_a_row_that_was_not_asked_for_long_goes_on_where_it_is() -> None:
    drawn = np.random.default_rng(8)
    prompt = noise(4000, drawn)
    asked, unasked = row(prompt), row(prompt)
    for token in prompt[1000:2000].tolist():
        asked.told(token)
        asked.propose(8)
        unasked.told(token)
    for token in prompt[3000:3100].tolist():
        unasked.told(token)
    proposal = unasked.propose(8)
    assert proposal is not None
    assert list(proposal.tokens) == prompt[3100:3108].tolist()
    for token in prompt[500:600].tolist():
        unasked.told(token)
    proposal = unasked.propose(8)
    assert proposal is not None
    assert list(proposal.tokens) == prompt[600:608].tolist()


def test_a_new_row_begins_with_what_others_have_learned() -> None:
    drawn = np.random.default_rng(9)
    session = Experience()
    pairs = np.array([[7, 8, 9, x] for x in drawn.integers(100, 10_000, 2000)], np.int32).ravel()
    draw(row(pairs[:2000], experience=session), pairs[2000:])
    alone, taught = row(pairs[:2003]), row(pairs[:2003], experience=session)
    first, second = alone.propose(8), taught.propose(8)
    assert first is not None
    assert second is None or second.chances[0] < first.chances[0] / 2


class Spells:
    """A grammar of one text, `allowed` elsewhere; `fails` when it is asked."""

    def __init__(self, text: list[int], allowed: Sequence[int] = (), *, fails: bool = False) -> None:
        self._text = text
        self._allowed = allowed
        self._fails = fails
        self.at = 0
        self.finished = False
        self.error: str | None = None

    def mask(self) -> None:
        raise AssertionError("a draft needs no mask")

    def advance(self, token: int) -> None:
        raise AssertionError("a draft moves nothing")

    def forced(self, most: int) -> Sequence[int]:
        if self._fails:
            raise RuntimeError("out of items")
        return self._text[self.at : self.at + most]

    def valid(self, tokens: Sequence[int]) -> int:
        wanted = [*self._text[self.at : self.at + len(tokens)]]
        fits = [token == want for token, want in zip(tokens, wanted, strict=False)] if wanted else []
        fits += [token in self._allowed for token in tokens[len(fits) :]]
        return [*fits, False].index(False)


def test_what_a_grammar_forces_is_proposed() -> None:
    subject = row(np.array([1], np.int32), kinds=frozenset(Drafter), constraint=Spells([7, 8, 9, 10]))
    proposal = subject.propose(3)
    assert proposal is not None
    assert (proposal.tokens, proposal.drafter) == ((7, 8, 9), Drafter.GRAMMAR)
    whole = subject.propose(8)
    assert whole is not None
    assert whole.tokens == (7, 8, 9, 10)
    # The last one may be part of a longer token.
    assert whole.chances[3] / whole.chances[2] < whole.chances[2] / whole.chances[1]


def test_a_draft_is_cut_to_what_the_grammar_allows() -> None:
    prompt = np.array([5, 6, 7, 8, 9, 10, 5, 6, 7], np.int32)
    for kinds in (BOTH, frozenset(Drafter)):
        proposal = row(prompt, kinds=kinds, constraint=Spells([], [8, 9])).propose(8)
        assert proposal is not None
        assert (proposal.tokens, proposal.drafter) == ((8, 9), Drafter.TEXT)
    assert row(prompt, constraint=Spells([], [3])).propose(8) is None


def test_the_longer_of_two_drafts_is_taken() -> None:
    prompt = np.array([5, 6, 7, *range(100, 140), 5, 6, 7, *range(100, 120)], np.int32)
    subject = row(prompt, kinds=frozenset(Drafter), constraint=Spells([120, 121], range(200)))
    proposal = subject.propose(8)
    assert proposal is not None
    assert (proposal.drafter, len(proposal.tokens)) == (Drafter.TEXT, 8)


def test_a_spelling_that_is_never_drawn_is_soon_unlikely() -> None:
    session = Experience()
    constraint = Spells([7, 8, 9, 10])
    subject = row(np.array([1], np.int32), kinds=frozenset(Drafter), constraint=constraint, experience=session)
    first = subject.propose(8)
    for _ in range(10):
        proposal = subject.propose(8)
        assert proposal is not None
        subject.verified(proposal.cut(2), 0)
    last = subject.propose(8)
    assert first is not None
    assert last is not None
    assert last.chances[0] < 0.2 < 0.8 < first.chances[0]
    assert session.forced.of[0] < first.chances[0]


def test_a_spelling_that_is_drawn_becomes_sure_its_last_token_as_well() -> None:
    subject = row(np.array([1], np.int32), kinds=frozenset(Drafter), constraint=Spells([7, 8, 9, 10]))
    for _ in range(40):
        proposal = subject.propose(8)
        assert proposal is not None
        subject.verified(proposal, 4)
    assert proposal is not None
    assert proposal.chances[3] > 0.9


def test_a_pass_that_was_cut_short_says_nothing_of_what_it_did_not_look_at() -> None:
    subject = row(np.array([1], np.int32), kinds=frozenset(Drafter), constraint=Spells([7, 8, 9, 10]))
    proposal = subject.propose(8)
    assert proposal is not None
    for _ in range(10):
        subject.verified(proposal.cut(2), 2)
    again = subject.propose(8)
    assert again is not None
    assert again.chances[0] > proposal.chances[0]


def test_a_wrong_token_says_nothing_of_those_behind_it() -> None:
    subject = row(np.array([1], np.int32), kinds=frozenset(Drafter), constraint=Spells([7, 8]))
    before = subject.propose(8)
    assert before is not None
    subject.verified(before, 0)
    after = subject.propose(8)
    assert after is not None
    assert after.chances[0] < before.chances[0]
    assert after.chances[1] / after.chances[0] == pytest.approx(before.chances[1] / before.chances[0])


def test_a_grammar_that_fails_costs_the_row_its_drafts_and_nothing_else(caplog) -> None:
    prompt = np.array([5, 6, 7, 8, 9, 10, 5, 6, 7], np.int32)
    subject = row(prompt, kinds=frozenset(Drafter), constraint=Spells([7], fails=True))
    assert subject.propose(8) is None
    subject.told(8)
    assert subject.propose(8) is None
    assert len(caplog.records) == 1


@given(
    prompt=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    donor=st.none() | st.lists(st.integers(0, 4), max_size=30),
    answer=st.lists(st.integers(0, 4), max_size=80),
    asks=st.lists(st.integers(0, 40), max_size=30),
)
def test_any_row_can_be_asked_at_any_time(prompt, donor, answer, asks) -> None:
    subject = row(np.array(prompt, np.int32), donor=None if donor is None else np.array(donor, np.int32), eos_ids=[4])
    for i, token in enumerate(answer):
        if i < len(asks) and asks[i]:
            proposal = subject.propose(asks[i])
            if proposal is not None:
                assert 1 <= len(proposal.tokens) == len(proposal.chances) <= asks[i]
                assert 4 not in proposal.tokens[:-1]
                assert list(proposal.chances) == sorted(proposal.chances, reverse=True)
        subject.told(token)
