"""The prep threads: longer prompts have threads of their own, so that nobody's waits for one of another order.

So have calls that are in no queue (TokenizeString, Detokenize, ModelMetadata): however many there are, no request is
prepared after them.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from backend.core.cancelling import is_being_cancelled
from backend.core.errors import Overloaded, RequestAborted
from backend.core.pools import start_threads
from backend.core.request import Conversation

T = TypeVar("T")
P = ParamSpec("P")
Lane = tuple[int | None, ThreadPoolExecutor]

# Characters at most (None: any number), threads. A prompt waits for those of its own lane only: 64 Ki characters
# are some 30 ms of encoding, 1 Mi are half a second. Two for the first: a template may take its whole time limit.
LANES: Final[tuple[tuple[int | None, int], ...]] = ((64 << 10, 2), (1 << 20, 1), (None, 1))
# Few: each takes its share of the processors from what prepares requests and from the engine.
UNQUEUED_LANES: Final[tuple[tuple[int | None, int], ...]] = ((64 << 10, 1), (None, 1))
MOST_UNQUEUED = 64


class Lanes:
    """Runs preparation by the size of what is prepared. Event loop only.

    Raises:
        RuntimeError: The system starts no more threads.
    """

    def __init__(self) -> None:
        self._closed = False
        self._lanes = _started(LANES, "prep")
        self._unqueued_lanes = _started(UNQUEUED_LANES, "tokenize")
        self._unqueued = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work that takes a short time whatever it is given."""
        return await self._on(self._lanes, 0, partial(work, *args, **kwargs))

    async def run_for(self, prompt: str | Conversation, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work whose time grows with the prompt."""
        return await self._on(self._lanes, characters(prompt), partial(work, *args, **kwargs))

    async def run_sized(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work whose time grows with so many characters."""
        return await self._on(self._lanes, size, partial(work, *args, **kwargs))

    async def run_unqueued(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work of no request in the queue, whose time grows with so many characters.

        Raises:
            Overloaded: As many as may run and wait do.
        """
        if self._unqueued >= MOST_UNQUEUED:
            calls = "TokenizeString, Detokenize and ModelMetadata"
            raise Overloaded(f"{self._unqueued} calls of {calls} in flight, limit {MOST_UNQUEUED}")
        self._unqueued += 1
        try:
            return await self._on(self._unqueued_lanes, size, partial(work, *args, **kwargs))
        finally:
            self._unqueued -= 1

    async def _on(self, lanes: Sequence[Lane], size: int, work: Callable[[], T]) -> T:
        lane = next(lane for limit, lane in lanes if limit is None or size <= limit)
        if self._closed:
            raise RequestAborted("the model was unloaded")
        # A pool holds what was cancelled until a thread comes to it, and texts are large.
        held = [work]
        del work

        def take() -> T:
            return held.pop()()

        try:
            return await asyncio.get_running_loop().run_in_executor(lane, take)
        except asyncio.CancelledError:
            held.clear()
            if self._closed and not is_being_cancelled():
                # It waited for its thread and will not get it; nobody has cancelled the caller.
                raise RequestAborted("the model was unloaded") from None
            raise

    def shutdown(self) -> None:
        """Begin nothing more; what runs is not waited for, and what waits ends with `RequestAborted`."""
        self._closed = True
        for _, lane in (*self._lanes, *self._unqueued_lanes):
            lane.shutdown(wait=False, cancel_futures=True)


def _started(lanes: Sequence[tuple[int | None, int]], name: str) -> list[Lane]:
    started: list[Lane] = []
    for index, (limit, threads) in enumerate(lanes):
        lane = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-{index}")
        start_threads(lane, threads)
        started.append((limit, lane))
    return started


def characters(prompt: str | Conversation) -> int:
    """About how much text a prompt has; each message counts for the words that a template puts around it."""
    if isinstance(prompt, str):
        return len(prompt)
    texts = sum(64 + len(message.content) + len(message.reasoning_content) for message in prompt.messages)
    return texts + prompt.json_bytes
