"""What is drawn at all places of a pass at once is what is drawn token by token, as far as the drafts are right."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from backend.engine.sampling.device import places
from backend.engine.sampling.device.places import PlaceDraws, bytes_of_places
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import Sampled
from tests.engine.sampling.building import EOS, MIXED, OnlyThese, lazy, random_logits, row

VOCAB, WIDTH = 600, 5
WINDOWS: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.5, "penalty_window": 3},
    {"frequency_penalty": 0.9, "presence_penalty": 0.5, "temperature": 0.2},
)


def rows() -> list[RowSampling]:
    prompt = [5, 9, 9, 30]
    made = [row(prompt, seed=at, **settings) for at, settings in enumerate(MIXED)]
    made += [row(prompt, top_logprobs=at, seed=at, **settings) for at, settings in enumerate(WINDOWS)]
    return [*made, row(prompt, constraint=OnlyThese([7, 8, EOS], VOCAB), temperature=1.0)]


def by_token(logits: mx.array, fresh: list[RowSampling]) -> list[Sampled]:
    """The draws of steps of their own."""
    told: list[Sampled] = []
    for place in range(WIDTH):
        told.append(DeviceSampler().sample_lazy(logits[:, place], fresh).collect())
        for one, token in zip(fresh, told[-1].tokens, strict=True):
            one.accept(token)
    return told


def numbers(seed: int) -> mx.array:
    # Much the same at each place, and close to each other, so that penalties and noise decide.
    each = random_logits(len(rows()) * WIDTH, VOCAB, seed=seed, spread=0.05).reshape(-1, WIDTH, VOCAB)
    return lazy(each + random_logits(len(rows()), VOCAB, seed=seed + 9, spread=0.7)[:, None])


@pytest.mark.parametrize("seed", range(3))
def test_as_far_as_drafts_are_right_they_are_the_draws_of_single_steps(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All places of all rows at once, some, and one of each row.
    monkeypatch.setattr(places, "MOST_BYTES", (places.MOST_BYTES, 17 * places.DRAW_BYTES * VOCAB, 0)[seed])
    logits, rng = numbers(seed), random.Random(seed)
    steps = by_token(logits, rows())
    fresh, drafts = rows(), list[list[int]]()
    for index in range(len(fresh)):
        coming = [sampled.tokens[index] for sampled in steps[: rng.randrange(WIDTH)]]
        drafts.append([token ^ (rng.random() < 0.2) for token in coming])
    draws = PlaceDraws(DeviceSampler(), logits, fresh, drafts)
    mx.eval(draws.arrays())
    going, most = list(range(len(fresh))), 0
    for place in range(WIDTH):
        told = draws.draw(place, going, [fresh[index] for index in going])
        left = list[int]()
        for at, index in enumerate(going):
            assert told.tokens[at] == steps[place].tokens[index], (place, index)
            assert told.logprobs[at] == steps[place].logprobs[index]
            fresh[index].accept(told.tokens[at])
            if drafts[index][place : place + 1] == [told.tokens[at]]:
                left.append(index)
        going, most = left, place
        if not going:
            break
    assert most > 1 and not any(one.drawn_ahead for one in fresh)


def test_of_a_row_that_fails_at_a_place_those_before_are_drawn() -> None:
    values = random_logits(2 * WIDTH, VOCAB).reshape(2, WIDTH, VOCAB)
    values[1, 2, 0] = np.nan
    draft = values.argmax(axis=-1).tolist()
    fresh = [row(), row()]
    draws = PlaceDraws(DeviceSampler(), mx.array(values), fresh, [draft[0][:4], draft[1][:4]])
    mx.eval(draws.arrays())
    for place in range(WIDTH):
        told = draws.draw(place, [0, 1], fresh)
        assert told.tokens[0] == draft[0][place]
        assert (1 in told.errors) == (place == 2)


def test_a_batch_of_grammars_alone_draws_nothing_ahead() -> None:
    grammar: Any = OnlyThese([7], VOCAB)
    fresh = [row(constraint=grammar)]
    draws = PlaceDraws(DeviceSampler(), mx.array(random_logits(2, VOCAB))[None], fresh, [[7]])
    assert not draws.arrays() and draws.draw(1, [0], fresh).tokens == [7]


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"typical_p": 0.9}, {"top_k": 40, "repetition_penalty": 1.1}])
def test_draws_hold_no_more_than_they_are_projected_to(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab, count = 32_000, 4
    monkeypatch.setattr(places, "MOST_BYTES", 12 * places.DRAW_BYTES * vocab)
    logits = mx.array(random_logits(count * WIDTH, vocab)).reshape(count, WIDTH, vocab)
    drafts = [[5] * (WIDTH - 1)] * count

    def draw() -> None:
        several = [row([1, 2], seed=at, temperature=0.8, **settings) for at in range(count)]
        mx.eval(PlaceDraws(DeviceSampler(), logits, several, drafts).arrays())

    draw()
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    draw()
    held = mx.get_peak_memory() - before
    assert bytes_of_places(vocab, count, WIDTH - 1) / 4 < held <= 1.1 * bytes_of_places(vocab, count, WIDTH - 1)
