"""The prep threads: longer prompts have threads of their own, so that nobody's waits for one of another order."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from backend.core.cancelling import is_being_cancelled
from backend.core.errors import RequestAborted
from backend.core.pools import start_threads
from backend.core.request import Conversation

T = TypeVar("T")
P = ParamSpec("P")

# Characters at most (None: any number), threads. A prompt waits for those of its own lane only: 64 Ki characters
# are some 30 ms of encoding, 1 Mi are half a second. Two for the first: a template may take its whole time limit.
LANES: Final[tuple[tuple[int | None, int], ...]] = ((64 << 10, 2), (1 << 20, 1), (None, 1))


class Lanes:
    """Runs preparation by the size of what is prepared. Event loop only.

    Raises:
        RuntimeError: The system starts no more threads.
    """

    def __init__(self) -> None:
        self._closed = False
        self._lanes: list[tuple[int | None, ThreadPoolExecutor]] = []
        for index, (limit, threads) in enumerate(LANES):
            lane = ThreadPoolExecutor(threads, thread_name_prefix=f"prep-{index}")
            start_threads(lane, threads)
            self._lanes.append((limit, lane))

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work that takes a short time whatever it is given."""
        return await self._on(0, work, *args, **kwargs)

    async def run_for(self, prompt: str | Conversation, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work whose time grows with the prompt."""
        return await self._on(characters(prompt), work, *args, **kwargs)

    async def run_sized(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work whose time grows with so many characters."""
        return await self._on(size, work, *args, **kwargs)

    async def _on(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        lane = next(lane for limit, lane in self._lanes if limit is None or size <= limit)
        if self._closed:
            raise RequestAborted("the model was unloaded")
        try:
            return await asyncio.get_running_loop().run_in_executor(lane, lambda: work(*args, **kwargs))
        except asyncio.CancelledError:
            if self._closed and not is_being_cancelled():
                # It waited for its thread and will not get it; nobody has cancelled the caller.
                raise RequestAborted("the model was unloaded") from None
            raise

    def shutdown(self) -> None:
        """Begin nothing more; what runs is not waited for, and what waits ends with `RequestAborted`."""
        self._closed = True
        for _, lane in self._lanes:
            lane.shutdown(wait=False, cancel_futures=True)


def characters(prompt: str | Conversation) -> int:
    """About how much text a prompt has; each message counts for the words that a template puts around it."""
    if isinstance(prompt, str):
        return len(prompt)
    texts = sum(64 + len(message.content) + len(message.reasoning_content) for message in prompt.messages)
    return texts + prompt.json_bytes
