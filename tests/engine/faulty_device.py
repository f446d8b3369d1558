"""A device that fails on demand as a GPU does: it computes garbage, and says so once, to whoever waits first."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import mlx.core as mx
import numpy as np

from backend.engine import waits
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.pooled.lane import Pooled
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.loading import LoadedModel, load_model
from mlx_cache.payload import MlxPayload

GARBAGE = 0.37


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a wait or a call of the model was: of a batch, a prompt or the prompt cache, and of which requests."""

    kind: str
    names: frozenset[str]


@dataclass(slots=True)
class FaultyDevice:
    """Stands in for `waits.evaluate` and wraps the model.

    Attributes:
        failed: Whose work became garbage; None while nothing has failed.
        told: Whose wait was told of it.
        beside: Who has run beside a batch that failed.
    """

    session: Session | None = None
    inner: Any = None
    waits: int = 0
    calls: int = 0
    failed: Owner | None = None
    told: Owner | None = None
    beside: set[str] = field(default_factory=set[str])
    _late: bool = False
    _wait_to_fail: int = 0
    _call_to_fail: int = 0
    _to_report: bool = False
    _step: FrameType | None = None

    def arm(self, *, wait: int = 0, call: int = 0, late: bool = False) -> None:
        """Fail in the n-th wait from now, or in the n-th call of the model; 0 is never.

        A prompt's failure is reported at the next wait of anybody, or (`late`) at that of the prompt.
        """
        self.waits = self.calls = 0
        self._wait_to_fail, self._call_to_fail, self._late = wait, call, late
        self._to_report, self.failed, self.told, self._step = False, None, None, None

    def load(self, *args: Any, **kwargs: Any) -> LoadedModel:
        """`load_model`, with this in place of the model."""
        loaded = load_model(*args, **kwargs)
        self.inner = loaded.model
        return replace(loaded, model=self)

    def __call__(self, tokens: mx.array, *, cache: list[Any]) -> mx.array:
        """The model: the call that fails computes from other tokens."""
        self.calls += 1
        if self.calls == self._call_to_fail:
            self.failed, self._to_report, self._step = self._owner_of(cache), True, _device_step()
            tokens = (tokens + 1) % 200
        return self.inner(tokens, cache=cache)

    def evaluate(self, *arrays: Any) -> None:
        """The wait: the one that fails leaves garbage in its arrays; a batch's, in those of who runs beside it too."""
        mx.eval(*arrays)
        self.waits += 1
        if self.waits == self._wait_to_fail:
            self.failed, self._to_report = _waiting(), True
            spoil(arrays)
            if self.failed.kind == "batch":
                self._spoil_what_runs_beside()
        if self._to_report and self._has_come_to_it():
            self._to_report, self._step = False, None
            self.told = _waiting()
            raise RuntimeError("[planted] Command buffer execution failed")

    def _spoil_what_runs_beside(self) -> None:
        assert self.session is not None
        running = self.session.prefills.running
        if running is not None and running.chunk is not None:
            self.beside.add("prompt")
            spoil(running.chunk._states())
        for batch in self.session.groups.batches:
            if batch.in_flight and self.failed != _batch(batch.rows):
                self.beside.add("batch")
                spoil(batch._states())

    def _has_come_to_it(self) -> bool:
        assert self.failed is not None
        if self._late and self.failed.kind == "prompt":
            return _waiting() == self.failed
        # A step's own wait is for the draw before it.
        return self._step is None or self._step is not _device_step()

    def _owner_of(self, caches: list[Any]) -> Owner:
        assert self.session is not None
        for batch in self.session.groups.batches:
            if batch._caches is caches:
                return _batch(batch.rows)
        unit = self.session.pooled.unit
        if unit is not None and unit.caches is caches:
            return _pooled(self.session.pooled)
        row = next(row for row in self.session.prefills.rows if row.caches is caches)
        return Owner("prompt", frozenset([row.request.request_id]))


def _batch(rows: list[Row]) -> Owner:
    return Owner("batch", frozenset(row.request.request_id for row in rows if not row.stream.ended))


def _pooled(pooled: Pooled) -> Owner:
    assert pooled.unit is not None
    here = {id(row) for row in pooled.rows}
    names = (part.row.request.request_id for part in pooled.unit.parts if id(part.row) in here)
    return Owner("pooled", frozenset(names))


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _device_step() -> FrameType | None:
    """The step of a batch that runs ahead, if this is inside of one."""
    steps = (frame for frame in _frames() if frame.f_code is DeviceBatch.step.__code__)
    return next(steps, None)


def _waiting() -> Owner:
    for frame in _frames():
        own = frame.f_locals.get("self")
        if isinstance(own, MlxPayload):
            return Owner("cache", frozenset())
        if isinstance(own, DecodeBatch):
            return _batch(own.rows)
        if isinstance(own, Pooled):
            return _pooled(own)
        if isinstance(own, Prefills):
            return Owner("prompt", frozenset([frame.f_locals["row"].request.request_id]))
    raise AssertionError(f"a wait of nobody's, by {waits.__name__}")


def spoil(arrays: Any) -> None:
    mx.eval(arrays)
    for array in _leaves(arrays):
        np.array(array, copy=False)[...] = GARBAGE


def _leaves(tree: Any) -> Iterator[mx.array]:
    if isinstance(tree, mx.array):
        if tree.dtype == mx.float32 and tree.size:
            yield tree
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _leaves(branch)
