"""What a draft model costs beside the model that it guesses for, measured at the load. Engine thread only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from backend.engine.loading import LoadedModel
from backend.engine.waits import wait

_READ = 64
_STEPS = 3
_TIMES = 2
_DRAFTED = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds, for one row.

    Attributes:
        plain: Of a step of the model.
        rounds: Of what drafts so many tokens, each measured twice.
        per_token: Of a prompt that the draft model reads.
    """

    plain: float
    rounds: Mapping[int, tuple[float, float]]
    per_token: float


def calibrate(
    loaded: LoadedModel, draft: LoadedModel, clock: Callable[[], float], *, check: Callable[[], None]
) -> Calibration:
    """Six steps of each behind a token or some; raises whatever a model raises.

    Args:
        check: Called now and then; raises where the load is not wanted any more.
    """
    plain, _ = _measured(loaded, clock, check, read=1)
    step, read = _measured(draft, clock, check, read=_READ)
    return Calibration(plain, {n: (n * step, n * step) for n in (1, _DRAFTED)}, read / _READ)


def _measured(
    loaded: LoadedModel, clock: Callable[[], float], check: Callable[[], None], *, read: int
) -> tuple[float, float]:
    """Seconds of a step and of reading some tokens, each at its quickest: the first ones compile something."""
    prompt = mx.array([[place % (loaded.vocab_size - 1) + 1 for place in range(read)]])
    reads: list[float] = []
    steps: list[float] = []
    for _ in range(_TIMES):
        check()
        caches = loaded.new_cache()
        reads.append(_seconds(loaded, prompt, caches, clock))
        steps.extend(_seconds(loaded, prompt[:, :1], caches, clock) for _ in range(_STEPS))
    return min(steps), min(reads)


def _seconds(loaded: LoadedModel, tokens: mx.array, caches: list[Any], clock: Callable[[], float]) -> float:
    started = clock()
    logits = loaded.model(tokens, cache=caches)[:, -1]
    wait(mx.argmax(logits, axis=-1), [cache.state for cache in caches])
    return clock() - started
