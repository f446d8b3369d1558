"""Whose work it is, as the frames of the engine's own code tell."""

import sys
from collections.abc import Iterator
from types import FrameType

from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.drafting.model_drafter import ModelDrafter
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Verification
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload


def whose() -> list[Row]:
    """The rows of the work in which this is called; none where nobody loses it: the prompt cache's, the
    draft model's, what is made of texts while others run."""
    for frame in _frames():
        own, group = frame.f_locals.get("self"), frame.f_locals.get("group")
        if isinstance(own, PromptCache | MlxPayload | ModelDrafter):
            return []
        if isinstance(own, Verification):
            return list(own._rows)
        if isinstance(own, DecodeBatch):
            return list(own.rows)
        if isinstance(group, DecodeBatch):
            return list(group.rows)
        if frame.f_code is Pooled._while_it_runs.__code__:
            return []  # what is made ahead is made again, and what runs meanwhile runs again
        if isinstance(own, Pooled) and own.unit is not None:
            return [part.row for part in own.unit.parts]
        if isinstance(own, Prefills):
            return [frame.f_locals["row"]]
    raise AssertionError("work of nobody's")


def names_of(rows: list[Row]) -> set[str]:
    """The requests of those that are owed an end."""
    return {row.request.request_id for row in rows if not row.stream.ended}


def a_draft_model_works() -> bool:
    """Whether this is called by the part that has a second model guess."""
    return any(isinstance(frame.f_locals.get("self"), ModelDrafter) for frame in _frames())


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
