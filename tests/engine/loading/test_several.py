"""What the trial of passes over several tokens finds in models that misbehave in them alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from backend.config import ModelConfig
from backend.engine.loading import load_model
from backend.engine.loading.probe.context import Context
from backend.engine.loading.probe.several import cannot_speculate
from tests.engine.loading.test_probe import VOCAB, WIDTH, MeanModel, plain
from tests.models import write_model

CONTEXTS = [Context(24, seed=1), Context(7, seed=2), Context(11, seed=3)]
PASS = 3
Change = Callable[[mx.array], mx.array]


class RunningModel:
    """Logits come from a state that every token moves; token by token, so that a pass adds as single steps do."""

    def __init__(self, change: Change = lambda logits: logits, *, minds_lengths: bool = True) -> None:
        self._change = change
        self._minds_lengths = minds_lengths
        self._embedding = mx.random.normal((VOCAB, WIDTH), key=mx.random.key(1))

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        rows, count = tokens.shape
        values = self._embedding[tokens]
        mask = cache[0].make_mask(count) if self._minds_lengths else None
        state = mx.zeros((rows, WIDTH)) if cache[0][0] is None else cache[0][0]
        seen: list[mx.array] = []
        for place in range(count):
            moved = 0.9 * state + values[:, place]
            state = moved if mask is None else mx.where(mask[:, place, None], moved, state)
            seen.append(state @ self._embedding.T)
        cache[0][0] = state
        return self._change(mx.stack(seen, axis=1))


def state() -> list[Any]:
    return [ArraysCache(1)]


def in_a_pass(change: Change, *, rows: int = 1) -> Change:
    """The change where so many rows, or more, have as many tokens as a pass of the trial."""
    return lambda logits: change(logits) if logits.shape[1] == PASS and len(logits) >= rows else logits


@pytest.mark.parametrize(("model", "cache"), [(MeanModel(), plain), (RunningModel(), state)])
def test_a_sound_model_may_be_asked_for_several_tokens(model: Any, cache: Callable[[], list[Any]]) -> None:
    assert cannot_speculate(model, cache, CONTEXTS, batchable=True) == ""
    assert cannot_speculate(model, cache, CONTEXTS, batchable=False) == ""


@pytest.mark.parametrize("place", [0, PASS - 1])
@pytest.mark.parametrize(("kind", "cache"), [(MeanModel, plain), (RunningModel, state)])
def test_one_wrong_logit_in_a_pass_is_found(kind: Any, cache: Callable[[], list[Any]], place: int) -> None:
    model = kind(in_a_pass(lambda logits: logits.at[:, place, 3].add(0.1)))
    for batchable in (True, False):
        assert "several tokens at a time give other logits" in cannot_speculate(
            model, cache, CONTEXTS, batchable=batchable
        )


def test_a_pass_that_goes_wrong_in_company_alone_is_found_where_rows_go_together() -> None:
    model = MeanModel(in_a_pass(lambda logits: logits.at[1, 0, 3].add(0.1), rows=2))
    assert "give other logits" in cannot_speculate(model, plain, CONTEXTS, batchable=True)
    assert cannot_speculate(model, plain, CONTEXTS, batchable=False) == ""


def test_a_state_that_ignores_how_much_of_a_row_is_its_own_is_found_in_company() -> None:
    model = RunningModel(minds_lengths=False)
    assert "give other logits" in cannot_speculate(model, state, CONTEXTS, batchable=True)
    assert cannot_speculate(model, state, CONTEXTS, batchable=False) == ""


def test_a_pass_that_sees_its_own_later_tokens_is_found() -> None:
    assert "give other logits" in cannot_speculate(MeanModel(masked=False), plain, CONTEXTS, batchable=False)


def test_a_model_that_takes_one_token_at_a_time_says_so_itself() -> None:
    def refused(logits: mx.array) -> mx.array:
        raise ValueError("one token at a time")

    reason = cannot_speculate(MeanModel(in_a_pass(refused)), plain, CONTEXTS, batchable=True)
    assert reason == "several tokens at a time: one token at a time"


def test_a_class_of_cache_that_is_not_known_to_go_back_is_not_tried() -> None:
    class Own(KVCache):
        pass

    assert cannot_speculate(MeanModel(), plain, CONTEXTS, batchable=False) == ""
    reason = cannot_speculate(MeanModel(), lambda: [Own()], CONTEXTS, batchable=False)
    assert reason == "a layer's cache cannot go back"


def test_jambas_state_is_refused_and_its_rows_decode_together_all_the_same(tmp_path: Path) -> None:
    path = write_model(tmp_path / "jamba", "jamba")
    loaded = load_model(ModelConfig(identity="m", candidates=(str(path),)))
    assert loaded.batchable and "several tokens at a time give other logits" in loaded.speculation_reason
