"""A draft model guesses what it would say by itself after a row's tokens, whatever was right or wrong before."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from backend.engine.batching.drafting.draws import DeviceDraws, HostDraws
from backend.engine.batching.drafting.model_drafter import CATCH_UP, ModelDrafter
from backend.engine.batching.pace import Pace
from backend.engine.batching.row import Row
from backend.engine.batching.standing import Standing
from backend.engine.loading import LoadedModel, load_model
from backend.engine.sampling.device.sampler import DeviceSampler
from tests.engine.harness import model_config
from tests.engine.sampling import building
from tests.models import write_model
from tests.tiers import slow

ROWS = 4


def drafter(loaded: LoadedModel, *, device: bool = False, vocab_size: int | None = None) -> ModelDrafter:
    return ModelDrafter(
        loaded=loaded,
        draws=DeviceDraws(DeviceSampler()) if device else HostDraws(),
        pace=Pace(1e6),
        chunk=16,
        vocab_size=vocab_size or loaded.vocab_size,
        clock=lambda: 0.0,
    )


def row(prompt: list[int]) -> Row:
    tokens = np.array(prompt, np.int32)
    submit = SimpleNamespace(prompt=SimpleNamespace(tokens=tokens), request=SimpleNamespace(), max_tokens=1000)
    return Row(cast(Any, submit), building.row(), tokens, Standing.of(0.0, 0))


def by_itself(loaded: LoadedModel, one: Row, count: int) -> tuple[int, ...]:
    """What the model says after the row's tokens, read from the start."""
    caches = loaded.new_cache()
    tokens, said = one.tokens().tolist(), list[int]()
    for _ in range(count):
        # Token by token, which is to the bit what it says in company.
        for token in tokens:
            logits = loaded.model(mx.array([[token]]), cache=caches)
        tokens = [int(mx.argmax(logits[0, -1]).item())]
        said += tokens
    return tuple(said)


def read_all(made: ModelDrafter, rows: list[Row]) -> None:
    for one in rows:
        while made.to_read(one):
            made.read(one)


@pytest.mark.parametrize(("family", "device"), [slow("qwen3", False), ("qwen3", True), slow("qwen3_next", False)])
def test_guesses_are_what_the_model_says_after_what_the_rows_have_drawn(
    family: str, device: bool, tmp_path: Path
) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "draft", family)))
    made, rng = drafter(loaded, device=device), random.Random(4)
    everybody = [row([rng.randrange(256) for _ in range(n)]) for n in (5, 33, 2, 70)]
    for one in everybody:
        one.generated.append(rng.randrange(256))
    read_all(made, everybody)
    behind = 0
    for turn in range(10):
        rows = rng.sample(everybody, rng.randrange(1, ROWS + 1))
        # The others have been in another batch, or guessed by themselves.
        count = rng.choice((1, 3, 5))
        read_all(made, rows)
        guesses = made.draft(rows, count)
        assert sorted(guesses) == list(range(len(rows)))
        for index, guess in guesses.items():
            assert guess.tokens == by_itself(loaded, rows[index], count), (turn, index)
            assert all(0 < sure <= 1 for sure in guess.confidences)
        for index, one in enumerate(rows):
            right = rng.randrange(count + 1)
            one.generated += [*guesses[index].tokens[:right], rng.randrange(256)]
        for one in everybody:
            if one not in rows and rng.random() < 0.5:
                drawn = rng.choice((1, CATCH_UP + 3))
                behind += drawn > CATCH_UP
                one.generated += [rng.randrange(256) for _ in range(drawn)]
        if turn == 9:
            gone = everybody.pop()
            made.retain(everybody)
            assert id(gone) not in made._readers
    assert behind and not made.fault and made.nbytes() > 0
    made.retain([])
    assert made.nbytes() == 0


def test_tokens_that_only_one_model_has_are_never_guessed_and_never_fed(tmp_path: Path) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "draft", "qwen3")))
    known = row([5, 6, 7])
    known.generated.append(8)
    (first, second) = by_itself(loaded, known, 2)
    made = drafter(loaded, vocab_size=max(first, second))
    read_all(made, [known])
    n = 0 if first >= second else 1
    assert made.draft([known], 2)[0].tokens == (first, second)[:n]
    unknown, later = row([5, loaded.vocab_size, 7]), row([5, 6])
    later.generated.append(7)
    assert not made.may_guess(unknown, 1) and made.may_guess(later, 1)
    later.generated.append(loaded.vocab_size)
    assert not made.may_guess(later, 1)
    assert not made.may_guess(known, loaded.context_length)


@pytest.mark.parametrize("reads", [False, True])
def test_a_failure_is_told_and_leaves_nothing_behind(reads: bool, tmp_path: Path) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "draft", "qwen3")))
    model, failing = loaded.model, list[bool]()

    def call(*args: Any, **options: Any) -> mx.array:
        if failing:
            raise RuntimeError("planted")
        return model(*args, **options)

    made, one, late = drafter(replace(loaded, model=call)), row([5, 6, 7]), row([5, 6, 7])
    read_all(made, [one])
    assert made.draft([one], 2) and made.nbytes()
    one.generated.append(9)
    failing.append(True)
    if reads:
        made.read(late)
    else:
        assert made.draft([one], 2) == {}
    assert made.fault == "stopped: its model failed (RuntimeError)" and not made.nbytes()
    assert not made.may_guess(one, 1)


def test_a_row_that_has_drawn_nothing_since_is_not_guessed_for_again(tmp_path: Path) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "draft", "qwen3")))
    made, one = drafter(loaded), row([5, 6, 7])
    read_all(made, [one])
    assert made.draft([one], 2) and not made.draft([one], 2)
    one.generated.append(9)
    assert made.draft([one], 2)[0].tokens == by_itself(loaded, one, 2)
