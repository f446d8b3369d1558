"""A real model that fails on demand: at its k-th call from now, in prefill or in decode."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from backend.engine.loading import LoadedModel, load_model


class FaultyModel:
    """Wraps mlx-lm's module; `arm` makes one later call raise."""

    def __init__(self) -> None:
        self.inner: Any = None
        self._countdown: int | None = None
        self._error: Callable[[], BaseException] = RuntimeError
        self._counts: Callable[[tuple[int, int]], bool] = lambda shape: True
        self.calls: list[tuple[int, int]] = []  # shape of each call's tokens: rows, tokens

    def arm(self, error: Callable[[], BaseException], *, calls: int = 1, decode: bool = True) -> None:
        """Raise `error()` in the `calls`-th call from now that is a decode step (or, else, a prefill chunk)."""
        self.arm_where(error, lambda shape: (shape[1] == 1) == decode, calls=calls)

    def arm_where(
        self, error: Callable[[], BaseException], counts: Callable[[tuple[int, int]], bool], *, calls: int = 1
    ) -> None:
        """Raise `error()` in the `calls`-th call from now whose tokens have such a shape: rows, tokens."""
        self._error, self._countdown, self._counts = error, calls, counts

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        self.calls.append(tuple(tokens.shape))
        if self._countdown is not None and self._counts(tuple(tokens.shape)):
            self._countdown -= 1
            if self._countdown == 0:
                self._countdown = None
                raise self._error()
        return self.inner(tokens, **kwargs)

    def load(self, *args: Any, **kwargs: Any) -> LoadedModel:
        """`load_model`, with this in place of the model; what `stop` holds is let go at the next load."""
        loaded = load_model(*args, **kwargs)
        self.inner = loaded.model
        return replace(loaded, model=self)


class FailingWaits:
    """Stands in for `waits.evaluate`: the n-th wait from `arm` raises, and its arrays read as if all was well."""

    def __init__(self) -> None:
        self.count = 0
        self._fails_at: int | None = None

    def arm(self, n: int) -> None:
        """Raise in the n-th wait from now; 0 is never."""
        self.count, self._fails_at = 0, n

    def __call__(self, *arrays: Any) -> None:
        import mlx.core as mx

        mx.eval(*arrays)
        self.count += 1
        if self.count == self._fails_at:
            self._fails_at = None
            raise RuntimeError("[planted] Command buffer execution failed")
