"""The engine thread's life, as the event loop sees it: it starts, dies of an error or hangs, and ends."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from backend.core.logline import logline
from backend.core.silence import Silence
from backend.engine.channel import Outbox
from backend.engine.inbox import Call, Inbox, Stop
from backend.engine.loads import Loads
from backend.engine.thread import EngineThread, warm_up

log = logging.getLogger(__name__)

# Between two looks of the watchdog.
LOOK_SECONDS = 1.0
END_POLL_SECONDS = 0.01


class EngineLife:
    """Event loop only. Invariant: what is dead stays dead, and of several reasons the first stands.

    Args:
        wake: Has the event loop call something; for any thread.

    Attributes:
        blas: What the engine computes with; empty until its libraries are there.
    """

    def __init__(self, inbox: Inbox, wake: Callable[[Callable[[], None]], None], clock: Callable[[], float]) -> None:
        self._inbox = inbox
        self._wake = wake
        self._clock = clock
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._alive = True
        self._warm = False
        self.blas = ""
        self.thread = EngineThread(inbox, Outbox(wake), clock, lambda cause: wake(partial(self._died, cause)))

    @property
    def alive(self) -> bool:
        """Whether the engine thread works, and is meant to; False is final."""
        return self._alive

    @property
    def ending(self) -> str:
        """Why the engine is dead, in one line; empty while it is not."""
        return self._death.result() if self._death.done() else ""

    def start(self, blas: str) -> None:
        """Start the engine thread; it imports mlx_lm there, while the port already answers."""
        self.thread.start()
        self._inbox.put(Call(partial(warm_up, blas), self._warmed_up))

    def _warmed_up(self, blas: Any, error: Exception | None) -> None:
        # Without its libraries the engine will never serve; better to say so than to fail every load.
        if error is not None:
            self._wake(partial(self._died, error))
        else:
            self.blas = blas
        self._warm = True

    def _died(self, cause: BaseException) -> None:
        self.lose(f"the engine cannot go on: {cause!r}"[:500])

    def lose(self, reason: str) -> None:
        """The engine cannot go on."""
        self._alive = False
        if not self._death.done():
            self._death.set_result(reason)

    async def died(self, loads: Loads) -> str:
        """Wait until the engine thread has died of an error, or hangs longer than `loads` allow; why, in one line."""
        silence = Silence(self._clock, LOOK_SECONDS)
        while not self._death.done():
            await asyncio.wait([self._death], timeout=LOOK_SECONDS)
            silent_s, limit = silence.since(self.thread.heartbeat), loads.patience_s
            if limit is not None and silent_s > limit:
                self.lose(f"the engine has been in {'a load' if loads.loading else 'one step'} for {limit:g} s")
        return self._death.result()

    def retire(self) -> None:
        """Nothing is to begin any more."""
        self._alive = False

    async def end(self, within_s: float) -> bool:
        """Have the engine thread end; whether it has in time."""
        self._inbox.put(Stop())
        ended = await self._ends(within_s)
        if not ended and self._warm:
            log.error(logline("engine_did_not_stop", seconds=within_s))
        elif not ended:
            log.info(logline("engine_left", text="it was importing its libraries"))
        return ended

    async def _ends(self, within_s: float) -> bool:
        # Not by a thread that joins it: where the system starts no more threads, a worker must end all the same.
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not (ended := self.thread.join(0)) and loop.time() < until:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(END_POLL_SECONDS)
        return ended
