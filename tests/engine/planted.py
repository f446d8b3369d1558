"""A fault at the N-th call of any of some places."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


class FaultAtCall:
    """Counts the calls of methods, and functions, since `arm`; the one that is due has a fault.

    Args:
        places: Owner and name of each: a class and its method, or a module and its function.
        fault: Called in place of the call that is due, with its arguments; whatever it returns, the call then happens.
        counts: Asked at each call; whether it is one.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        places: Sequence[tuple[Any, str]],
        fault: Callable[..., object],
        counts: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fault = fault
        self._counts = counts
        self._due = 0
        self.calls = 0
        self.seen: set[str] = set()
        self.happened = ""
        for owner, name in places:
            monkeypatch.setattr(owner, name, self.watched(getattr(owner, name), f"{owner.__name__}.{name}"))

    def arm(self, n: int) -> None:
        """The n-th call from now; 0 is none."""
        self.calls, self._due, self.happened = 0, n, ""

    def watched(self, sound: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A function whose calls count under a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._counts():
                return sound(*args, **kwargs)
            self.calls += 1
            self.seen.add(name)
            if self.calls == self._due:
                self.happened = name
                self._fault(*args, **kwargs)
            return sound(*args, **kwargs)

        return call


def failing(error: Callable[[], BaseException] = lambda: RuntimeError("planted")) -> Callable[..., object]:
    """A fault that raises."""

    def fault(*args: Any, **kwargs: Any) -> object:
        raise error()

    return fault
