"""What stays of a session whose weights were dropped. Engine thread only, but for the frozen `loaded`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from backend.config import FLUSH_SECONDS
from backend.core.freed_memory import give_back
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.loading import LoadedModel
from backend.engine.picture import Counters, EnginePicture


@dataclass(frozen=True, slots=True, kw_only=True)
class Asleep:
    """A model without its weights: another session goes on from here once they are loaded again.

    Attributes:
        loaded: What the load and its trial have found; without the model, and with no layer caches to be made.
        budget: Bytes of KV that the session had.
    """

    loaded: LoadedModel
    prefix: PrefixCache
    counters: Counters
    budget: int

    def picture(self, now: float) -> EnginePicture:
        """A picture for other threads."""
        return EnginePicture(
            at=now,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            buffer_pool=mx.get_cache_memory(),
            cached_kv=self.prefix.nbytes,
            cached_draft_kv=self.prefix.draft_nbytes,
            budget=self.budget,
            counters=self.counters.copy(),
            disk_state=self.prefix.disk_state,
            cache=self.prefix.figures(),
            tells=self.prefix.tells,
        )

    def tidy(self, now: float) -> None:
        """Forget what has been idle for too long."""
        self.prefix.forget_idle(now)

    def close(self) -> Mapping[str, float]:
        """Drop what the prompt cache has, here on the thread that made it, and return its memory; its last figures."""
        self.prefix.close(FLUSH_SECONDS)
        mx.clear_cache()
        give_back()
        return self.prefix.figures()


def without_weights(loaded: LoadedModel) -> LoadedModel:
    """The facts of a load."""
    backbone = loaded.backbone
    if not isinstance(backbone, str):
        backbone = replace(backbone, forward=_no_model, new_cache=_no_caches)
    draft = None if loaded.draft is None else without_weights(loaded.draft)
    return replace(loaded, model=None, new_cache=_no_caches, backbone=backbone, draft=draft)


def _no_model(*_args: Any, **_options: Any) -> mx.array:
    raise RuntimeError("the model is asleep")


def _no_caches() -> list[Any]:
    raise RuntimeError("the model is asleep")
