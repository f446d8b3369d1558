"""What one request has taken, as its client saw it."""

import time
from dataclasses import dataclass, field

from backend.client.answers import Stopwatch


@dataclass(slots=True, kw_only=True)
class Measured:
    """One request. Owned by whoever runs it, until it has ended.

    Attributes:
        watch: Begins when the request arrived, which may be before it was sent.
        ended: When its answer was whole; seconds of `time.perf_counter`.
        cached_tokens: Prompt tokens that came from a cache; None where the server does not say.
        drafted_tokens, accepted_tokens: Tokens that were guessed, and those that were right; 0 where it does not say.
        error: One sentence; empty for none.
        cut: It was stopped because the time was over, and is no failure.
        counted: Tokens of the answer as the server counts them; None where it does not.
        gaps: Seconds from one piece to the next, and the tokens that the next brought.
        tokens_at: When how many tokens were known.
    """

    watch: Stopwatch
    ended: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    counted: int | None = None
    error: str = ""
    cut: bool = False
    gaps: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    tokens_at: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def saw(self, tokens: int) -> None:
        """So many tokens of the answer are known by now."""
        now, before, last = time.perf_counter(), self.watch.tokens, self.watch.last
        if tokens > before:
            if self.watch.first is not None:
                self.gaps.append((now - last, tokens - before))
            self.tokens_at.append((now, tokens - before))
        self.watch.saw(tokens, now)

    @property
    def tokens(self) -> int:
        """Of the answer, as far as it came."""
        return self.watch.tokens if self.counted is None else self.counted

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end."""
        return self.ended is not None and not self.error and not self.cut

    @property
    def seconds(self) -> float:
        """From its arrival to its end."""
        return (self.ended or self.watch.last) - self.watch.began
