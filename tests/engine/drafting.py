"""Engines with a draft model that guesses whatever it costs, or that is right and wrong in turn, or fails."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from backend.config import CacheConfig, Drafter, EngineConfig, ModelConfig
from backend.engine.loading import LoadedModel, load_model
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Proposal
from tests.engine.harness import NO_CACHE, model_config
from tests.models import write_model

MODEL_ALONE = frozenset({Drafter.MODEL})


def pay_always(patched: pytest.MonkeyPatch, seed: int = 5) -> None:
    """Have every draft seem to pay, at changing depths: times on a busy machine would choose otherwise."""
    rng = random.Random(seed)

    def choose(_: Depths, proposals: Sequence[Proposal | None]) -> int:
        return rng.choice((0, 1, 3, 8, 8)) if any(proposals) else 0

    patched.setattr(Depths, "choose_drafting", lambda *_: (rng.choice((1, 2, 4, 8)), 1.0))
    patched.setattr(Depths, "may_invest", lambda *_, **__: True)
    patched.setattr(Depths, "most", lambda *_: 8)
    patched.setattr(Depths, "choose", choose)


class Doubtful:
    """Stands in for a draft model: now and then all its logits are one place off."""

    def __init__(self, inner: Any, every: int) -> None:
        self.inner, self.every, self.calls = inner, every, 0

    def __call__(self, tokens: mx.array, **options: Any) -> mx.array:
        """As the model, but for every so manieth call."""
        self.calls += 1
        logits = self.inner(tokens, **options)
        return mx.roll(logits, 1, axis=-1) if self.calls % self.every == 0 else logits


class LoadDoubtful:
    """`load_model`, with a draft model that is wrong in every so manieth step."""

    def __init__(self, every: int) -> None:
        self.every = every

    def __call__(self, *args: Any, **options: Any) -> LoadedModel:
        """Both models."""
        loaded = load_model(*args, **options)
        if loaded.draft is None:
            return loaded
        return replace(loaded, draft=replace(loaded.draft, model=Doubtful(loaded.draft.model, self.every)))


def with_draft(
    folder: Path,
    *,
    draft: str = "qwen3",
    seed: int = 0,
    engine: EngineConfig | None = None,
    cache: CacheConfig = NO_CACHE,
    drafters: frozenset[Drafter] = MODEL_ALONE,
    **options: Any,
) -> ModelConfig:
    """A qwen3 and a draft model: of seed 0 the same weights, and of any other ones that agree by chance."""
    model = write_model(folder / "model", "qwen3")
    second = write_model(folder / "draft", draft, seed=seed)
    return model_config(
        model, engine=engine, cache=cache, drafters=drafters, draft_candidates=(str(second),), **options
    )


def without(config: ModelConfig) -> ModelConfig:
    """The same load without any guesses."""
    return replace(config, draft_candidates=(), engine=replace(config.engine, drafters=frozenset()))
