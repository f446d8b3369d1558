"""A grammar that holds from the first token on, and the masks that it gives."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint

Looked = TypeVar("Looked")


class AnswerMatcher(Protocol):
    """What is asked of a grammar's matcher; see `llguidance_engine.Matcher`."""

    def fill(self, mask: NDArray[np.uint32]) -> None: ...
    def consume(self, token: int) -> bool: ...
    def consume_text(self, text: str) -> bool: ...
    def forced(self) -> list[int]: ...
    def valid(self, tokens: Sequence[int]) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def error(self) -> str | None: ...


class TextConstraint(Constraint, Protocol):
    """A constraint that can also be told text that came before its first token."""

    def accept_text(self, text: bytes) -> bool:
        """Move past a text; False if it is not allowed, and then nothing changed."""
        ...


class GrammarConstraint:
    """Holds from the first token on. Engine thread only.

    The mask is worked out once a step, into the same memory: it is the caller's until the next `advance`.
    """

    def __init__(self, matcher: AnswerMatcher, words: int, took: Callable[[float], None] = lambda _: None) -> None:
        """`took` is told the seconds of each mask."""
        self._matcher = matcher
        self._took = took
        self._mask = np.zeros(words, np.uint32)
        self._current = False
        self._error: str | None = None
        # What is left of the last forced text, or None where it is not known.
        self._forced: list[int] | None = None

    def mask(self) -> NDArray[np.uint32] | None:
        if not self._current:
            started = time.perf_counter()
            self._matcher.fill(self._mask)
            self._took(time.perf_counter() - started)
            self._current = True
            # llguidance answers an inner error with a mask of nothing but the end.
            self._error = self._error or self._matcher.error
            if self._error is None and not self._mask.any():
                self._error = "the grammar allows no further token"
        return self._mask

    def advance(self, token: int) -> None:
        self._current = False
        # An empty one says nothing of what comes behind a token that was free.
        self._forced = self._forced[1:] or None if self._forced and self._forced[0] == token else None
        if not self._matcher.consume(token) and self._error is None:
            self._error = self._matcher.error or f"the grammar does not allow token {token}"

    def accept_text(self, text: bytes) -> bool:
        try:
            accepted = self._matcher.consume_text(text.decode())
        except UnicodeDecodeError:
            return False
        self._current = self._current and not accepted
        self._forced = None if accepted else self._forced
        return accepted

    def forced(self, most: int) -> Sequence[int]:
        if self._forced is None:
            self._forced = self._timed(self._matcher.forced)
        return self._forced[:most]

    def valid(self, tokens: Sequence[int]) -> int:
        return self._timed(lambda: self._matcher.valid(tokens))

    def _timed(self, look: Callable[[], Looked]) -> Looked:
        """What a look ahead finds; it may make states of the lexer, as a mask does."""
        started = time.perf_counter()
        found = look()
        self._took(time.perf_counter() - started)
        return found

    @property
    def finished(self) -> bool:
        return self._error is None and self._matcher.complete

    @property
    def error(self) -> str | None:
        return self._error


def allow(mask: NDArray[np.uint32], token: int) -> None:
    """Set a token's bit."""
    mask[token // 32] |= np.uint32(1 << (token % 32))


def allows(mask: NDArray[np.uint32], token: int) -> bool:
    """Whether a token's bit is set."""
    return bool(int(mask[token // 32]) >> (token % 32) & 1)


def token_mask(tokens: list[int], words: int) -> NDArray[np.uint32]:
    """A mask that allows these tokens; uint32, [words]."""
    mask = np.zeros(words, np.uint32)
    for token in tokens:
        allow(mask, token)
    return mask
