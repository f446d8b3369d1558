"""Constraints that wait: for the end of reasoning, for the start of a call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.grammar.constraints import TextConstraint, allow, allows

_MAX_GAP_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """From where on a grammar holds.

    Attributes:
        reasoning_end: The marker that ends reasoning; empty if the model has none.
        in_reasoning: The answer begins inside reasoning.
        reasoning_start_ids: Tokens of the marker that opens reasoning, where the answer may begin with it.
        triggers: The grammar holds after each occurrence of one of these texts until it is complete, and the text
            around is free; none for a grammar that holds throughout. Where there are several, the number of the one
            that occurred is the beginning of what the grammar describes.
    """

    reasoning_end: bytes = b""
    in_reasoning: bool = False
    reasoning_start_ids: tuple[int, ...] = ()
    triggers: tuple[bytes, ...] = ()


class TextWatch:
    """Finds the first of some markers in text that arrives as tokens, whatever their boundaries."""

    def __init__(self, markers: Sequence[bytes], bytes_of: Callable[[int], bytes]) -> None:
        self._markers = markers
        self._longest = max(map(len, markers))
        self._bytes_of = bytes_of
        self._tail = b""

    def tokens_before(self, tokens: Sequence[int]) -> int:
        """How many of these tokens come up to the one that completes a marker, that one included. Changes nothing."""
        text = self._tail
        for n, token in enumerate(tokens, 1):
            text += self._bytes_of(token)
            if any(marker in text for marker in self._markers):
                return n
        return len(tokens)

    def push(self, token: int) -> tuple[int, bytes] | None:
        """Which marker this token completes, and what comes after it; None if it completes none."""
        return self.push_text(self._bytes_of(token))

    def push_text(self, text: bytes) -> tuple[int, bytes] | None:
        """As `push`, with text."""
        seen = self._tail + text
        places = [(at, which) for which, marker in enumerate(self._markers) if (at := seen.find(marker)) >= 0]
        if places:
            at, which = min(places)
            self._tail = b""
            return which, seen[at + len(self._markers[which]) :]
        keep = self._longest - 1
        self._tail = seen[-keep:] if keep else b""
        return None


class AfterReasoning:
    """Free until the reasoning ends, then what `inner` holds. Engine thread only.

    Between the two, up to two tokens of line breaks may stand, as thinking models write them.
    """

    def __init__(
        self,
        inner: TextConstraint,
        activation: Activation,
        bytes_of: Callable[[int], bytes],
        line_breaks: NDArray[np.uint32],
    ) -> None:
        self._inner = inner
        self._watch = TextWatch([activation.reasoning_end], bytes_of)
        self._start_ids = activation.reasoning_start_ids
        self._opened = len(self._start_ids) if activation.in_reasoning else 0
        self._reasons = activation.in_reasoning
        self._may_open = bool(self._start_ids) and not self._reasons
        self._line_breaks = line_breaks
        self._gaps_left = 0
        self._mask = np.zeros_like(line_breaks)

    def mask(self) -> NDArray[np.uint32] | None:
        if self._reasons:
            return None
        if self._opened:
            return self._only(self._start_ids[self._opened])
        inner = self._inner.mask()
        if inner is None:
            return None
        if self._gaps_left:
            return np.bitwise_or(inner, self._line_breaks, out=self._mask)
        if self._may_open:
            np.copyto(self._mask, inner)
            allow(self._mask, self._start_ids[0])
            return self._mask
        return inner

    def _only(self, token: int) -> NDArray[np.uint32]:
        self._mask.fill(0)
        allow(self._mask, token)
        return self._mask

    def advance(self, token: int) -> None:
        if self._reasons:
            self._advance_reasoning(token)
        elif self._opened or (self._may_open and token == self._start_ids[0] and not self._inner_allows(token)):
            self._opened += 1
            self._reasons = self._opened == len(self._start_ids)
            self._may_open = False
        elif self._gaps_left and allows(self._line_breaks, token) and not self._inner_allows(token):
            self._gaps_left -= 1
        else:
            self._gaps_left = 0
            self._may_open = False
            self._inner.advance(token)

    def _inner_allows(self, token: int) -> bool:
        mask = self._inner.mask()
        return mask is None or allows(mask, token)

    def _advance_reasoning(self, token: int) -> None:
        found = self._watch.push(token)
        if found is None:
            return
        _, rest = found
        self._reasons = False
        self._opened = 0
        self._gaps_left = _MAX_GAP_TOKENS
        # The token that ended the reasoning may carry more; what the grammar does not want of it is let go.
        if rest.strip() and not self._inner.accept_text(rest):
            self._inner.accept_text(rest.lstrip())

    def forced(self, most: int) -> Sequence[int]:
        if self._opened and not self._reasons:
            return self._start_ids[self._opened :][:most]
        # Where reasoning or line breaks may come, nothing is forced.
        return () if self._reasons or self._may_open or self._gaps_left else self._inner.forced(most)

    def valid(self, tokens: Sequence[int]) -> int:
        if self._reasons:
            return self._watch.tokens_before(tokens)
        if self._opened:
            return _agreeing(tokens, self._start_ids[self._opened :])
        allowed = self._inner.valid(tokens)
        if allowed or not tokens:
            return allowed
        if self._may_open and tokens[0] == self._start_ids[0]:
            return _agreeing(tokens, self._start_ids)
        breaks = next((n for n, token in enumerate(tokens) if not allows(self._line_breaks, token)), len(tokens))
        breaks = min(breaks, self._gaps_left)
        return breaks + self._inner.valid(tokens[breaks:]) if breaks else 0

    def accept_text(self, text: bytes) -> bool:
        return self._reasons or self._inner.accept_text(text)

    @property
    def finished(self) -> bool:
        return not self._reasons and not self._opened and self._inner.finished

    @property
    def error(self) -> str | None:
        return self._inner.error


class AfterTrigger:
    """Free text, and after each trigger one text that the grammar holds. Engine thread only.

    If the token that completes a trigger carries text that the grammar refuses, that occurrence stays free:
    nothing can be taken back, and a call that does not parse is given as content.
    """

    def __init__(
        self, make_inner: Callable[[], TextConstraint], triggers: Sequence[bytes], bytes_of: Callable[[int], bytes]
    ) -> None:
        self._numbered = len(triggers) > 1
        self._make_inner = make_inner
        self._watch = TextWatch(triggers, bytes_of)
        self._inner: TextConstraint | None = None

    def mask(self) -> NDArray[np.uint32] | None:
        return self._inner.mask() if self._inner else None

    def advance(self, token: int) -> None:
        if self._inner is None:
            self._begin(self._watch.push(token))
            return
        self._inner.advance(token)
        if self._inner.finished:
            self._inner = None

    def forced(self, most: int) -> Sequence[int]:
        return self._inner.forced(most) if self._inner is not None else ()

    def valid(self, tokens: Sequence[int]) -> int:
        return self._inner.valid(tokens) if self._inner is not None else self._watch.tokens_before(tokens)

    def _begin(self, found: tuple[int, bytes] | None) -> None:
        if found is None:
            return
        which, rest = found
        inner = self._make_inner()
        behind = b"%d" % which + rest if self._numbered else rest
        if not behind or inner.accept_text(behind):
            self._inner = inner

    def accept_text(self, text: bytes) -> bool:
        if self._inner is not None:
            return self._inner.accept_text(text)
        self._begin(self._watch.push_text(text))
        return True

    @property
    def finished(self) -> bool:
        return False

    @property
    def error(self) -> str | None:
        return self._inner.error if self._inner else None


def _agreeing(tokens: Sequence[int], others: Sequence[int]) -> int:
    return next(
        (n for n, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1]),
        min(len(tokens), len(others)),
    )
