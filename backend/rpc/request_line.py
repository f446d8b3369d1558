"""The log's line about a request: when it did what, what the prompt cache did for it, how it ended."""

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from backend.core.errors import InternalFault, WorkerError
from backend.core.events import Event, Finished, Usage
from backend.core.logline import logline
from backend.rpc.methods import Context, left_with
from backend.rpc.status import status_of

log = logging.getLogger(__name__)


class RequestLine:
    """Event loop only. Around a request: leaving writes the line, whichever way it is left. Never a word of its text.

    Attributes:
        request_id: As soon as it is known.
        priority: Where it is not 0.
    """

    def __init__(self, method: str, context: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._method = method
        self._context = context
        self._clock = clock
        self._began = clock()
        self._usage: Usage | None = None
        self._end = ""
        self._cache: dict[str, object] = {}
        self.request_id: str | None = None
        self.priority: int | None = None

    def note(self, event: Event) -> None:
        """Take what an event says of the request so far."""
        self._usage = event.usage or self._usage
        if isinstance(event, Finished):
            self._end = event.reason.value
            # Without a reason nobody is to know what the cache had.
            if event.cache_reason:
                self._cache = {"cached_tokens": event.usage.cached_tokens, "cache_reason": event.cache_reason}

    def __enter__(self) -> "RequestLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end = self._end if error is None else self._code_of(error)
        took = (self._clock() - self._began) * 1e3
        who = {"request_id": self.request_id, "method": self._method, "priority": self.priority}
        log.info(logline("request_ended", **who, end=end, total_ms=took, **_figures(self._usage), **self._cache))

    def _code_of(self, error: BaseException) -> str:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return left_with(self._context).name
        return status_of(error if isinstance(error, WorkerError) else InternalFault(""))[0].name


def _figures(usage: Usage | None) -> dict[str, object]:
    if usage is None:
        return {}
    seconds = usage.decode_ms / 1e3
    return {
        "queue_ms": usage.queue_ms,
        "first_token_ms": usage.first_token_ms or None,
        "prefill_ms": usage.prefill_ms,
        "decode_ms": usage.decode_ms,
        "prompt_tokens": usage.prompt_tokens,
        "tokens": usage.completion_tokens,
        "tokens_per_second": usage.completion_tokens / seconds if seconds > 0 else None,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens if usage.drafted_tokens is not None else None,
    }
