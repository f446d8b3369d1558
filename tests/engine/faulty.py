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
        self._rows = 0
        self.calls: list[tuple[int, int]] = []  # shape of each call's tokens: rows, tokens

    def arm(self, error: Callable[[], BaseException], *, calls: int = 1, decode: bool = True) -> None:
        """Raise `error()` in the `calls`-th call from now that is a decode step (or, else, a prefill chunk)."""
        self._error, self._countdown, self._decode = error, calls, decode

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        self.calls.append(tuple(tokens.shape))
        if self._countdown is not None and (tokens.shape[1] == 1) == self._decode:
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
