"""That the meanings are mlx-lm's: its own filters and processors beside ours, on the same logits."""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from backend.engine.sampling.host.processors import processed
from backend.engine.sampling.host.restrict import restricted
from tests.engine.sampling.building import EOS, random_logits, row
from tests.engine.sampling.host.test_restrict import ids_of

VOCAB = 500
Filter = Callable[[mx.array], mx.array]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """mlx-lm's filters are compiled functions; compiling needs a C++ compiler on a CPU."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def chain(*filters: Filter) -> Filter:
    def apply(logprobs: mx.array) -> mx.array:
        for one in filters:
            logprobs = one(logprobs)
        return logprobs

    return apply


def top_p(value: float) -> Filter:
    return lambda x: sample_utils.apply_top_p(x, value)


def min_p(value: float) -> Filter:
    return lambda x: sample_utils.apply_min_p(x, value)


def top_k(value: int) -> Filter:
    return lambda x: sample_utils.apply_top_k(x, value)


def xtc(threshold: float) -> Filter:
    return lambda x: sample_utils.apply_xtc(x, 1.0, threshold, [EOS])


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"top_p": 0.8}, top_p(0.8)),
        ({"min_p": 0.1}, min_p(0.1)),
        ({"top_k": 17}, top_k(17)),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.05}, xtc(0.05)),
        ({"top_p": 0.8, "min_p": 0.02, "top_k": 9}, chain(top_p(0.8), min_p(0.02), top_k(9))),
        (
            {"top_p": 0.7, "min_p": 0.01, "xtc_probability": 1.0, "xtc_threshold": 0.02, "top_k": 3},
            chain(top_p(0.7), min_p(0.01), xtc(0.02), top_k(3)),
        ),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_restrictions_leave_what_mlx_lm_leaves(settings: dict[str, Any], theirs: Filter, seed: int) -> None:
    logits = random_logits(1, VOCAB, seed=seed, spread=2.0)[0]
    logprobs = mx.array(logits)[None]
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    expected = np.flatnonzero(np.asarray(theirs(logprobs))[0] > -np.inf).tolist()
    # A temperature far from 1 would show a filter that looks at tempered probabilities.
    assert ids_of(restricted(logits, logits.max(), row(temperature=5.0, **settings))) == expected


@pytest.mark.parametrize("window", [20, 3])
def test_penalties_and_bias_give_what_mlx_lm_gives(window: int) -> None:
    history = [4, 7, 4, 4, 9, 7, 2]
    bias = {4: 1.5, 11: -3.0}
    logits = random_logits(1, VOCAB)[0]
    theirs = mx.array(logits)[None]
    for processor in sample_utils.make_logits_processors(bias, 1.3, window, 0.4, window, 0.2, window):
        theirs = processor(mx.array(history), theirs)
    ours = processed(
        logits,
        row(
            history,
            repetition_penalty=1.3,
            presence_penalty=0.4,
            frequency_penalty=0.2,
            penalty_window=window,
            logit_bias=tuple(bias.items()),
        ),
    )
    np.testing.assert_allclose(ours, np.asarray(theirs)[0], rtol=1e-6, atol=1e-6)
