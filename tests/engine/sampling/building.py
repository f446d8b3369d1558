"""Rows and logits for the sampling tests."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.core.request import Sampling
from backend.engine.sampling.row_sampling import RowSampling

EOS = 1


def row(
    prompt: list[int] | None = None,
    *,
    top_logprobs: int | None = None,
    constraint: Constraint | None = None,
    **settings: Any,
) -> RowSampling:
    return RowSampling(
        Sampling(**settings),
        prompt=np.array(prompt or [], np.int32),
        eos_ids=frozenset([EOS]),
        top_logprobs=top_logprobs,
        constraint=constraint,
    )


def random_logits(rows: int, vocab: int, *, seed: int = 0, spread: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * spread).astype(np.float32)


class OnlyThese:
    """A grammar that allows the same tokens always, and says what it was told."""

    def __init__(self, allowed: list[int], vocab: int) -> None:
        self._allowed = allowed
        bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
        bits[allowed] = 1
        self._mask = np.packbits(bits, bitorder="little").view(np.uint32)
        self.told: list[int] = []
        self.finished = False
        self.error: str | None = None

    def mask(self) -> NDArray[np.uint32] | None:
        return self._mask

    def advance(self, token: int) -> None:
        self.told.append(token)

    def forced(self, most: int) -> Sequence[int]:
        return self._allowed[:most] if len(self._allowed) == 1 else ()

    def valid(self, tokens: Sequence[int]) -> int:
        return next((n for n, token in enumerate(tokens) if token not in self._allowed), len(tokens))


def lazy(logits: NDArray[np.float32], dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(logits).astype(dtype)


MIXED: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.2, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.1, "logit_bias": ((3, 2.0), (5, -100.0))},
    {"temperature": 1.0, "typical_p": 0.9, "presence_penalty": 0.5, "penalty_window": None},
    {"temperature": 1.0, "xtc_probability": 0.5, "top_k": 100, "frequency_penalty": 0.3, "ignore_eos": True},
)
