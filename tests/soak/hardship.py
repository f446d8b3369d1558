"""What comes over a worker beside its clients: waves of requests, floods of resets, faults of its model."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Generator
from itertools import cycle, islice
from pathlib import Path

from tests.e2e.asking import Answer
from tests.e2e.http2 import open_and_reset
from tests.e2e.many import wave
from tests.soak.corpus import Asked, Corpus

Judge = Callable[[Asked, Answer, Corpus, float], None]

# A burst is over the queue of every second load, a wave over the queue and the rows of the others.
BURST, WAVE = 160, 1200
BURST_SECONDS, WAVE_SECONDS, FLOOD_SECONDS, FAULT_SECONDS = 6.0, 50.0, 9.0, 4.0
FLOOD_CALLS = 3000
KINDS = ("raise", "nan", "prefill")
# An order is obeyed at the model's next call of its kind, which may be a while after it was given.
SLACK_SECONDS = 10.0


class Windows:
    """When something was so; whoever asks may be told that it was at any time since another."""

    def __init__(self, slack: float = 0.0) -> None:
        self._slack = slack
        self._now = 0
        self._ended_at = float("-inf")
        self.count = 0

    @contextlib.contextmanager
    def open(self) -> Generator[None]:
        """It is so meanwhile."""
        self._now += 1
        self.count += 1
        try:
            yield
        finally:
            self._now -= 1
            self._ended_at = time.monotonic()

    def since(self, started: float) -> bool:
        """Whether it is so now, or was after `started`."""
        return self._now > 0 or self._ended_at + self._slack >= started


class Hardship:
    """Event loop only.

    Attributes:
        crowded, faulty: When the queue may have been full, and when a model may have failed.
    """

    def __init__(self, address: str, orders: Path, judge: Judge, seed: int) -> None:
        self._address, self._orders, self._judge = address, orders, judge
        self._drawn = random.Random(f"{seed} hardship")
        self.corpus: Corpus | None = None
        self._over = asyncio.Event()
        self.crowded, self.faulty, self.floods = Windows(), Windows(SLACK_SECONDS), Windows()

    def stop(self) -> None:
        """Let what has begun come to its end."""
        self._over.set()

    async def run(self) -> None:
        """Until stopped."""
        async with asyncio.TaskGroup() as group:
            for every, work in (
                (BURST_SECONDS, lambda: self._ask(BURST)),
                (WAVE_SECONDS, lambda: self._ask(WAVE)),
                (FLOOD_SECONDS, self._flood),
                (FAULT_SECONDS, self._fault),
            ):
                group.create_task(self._again(every, work))

    async def _again(self, every: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), every * self._drawn.uniform(0.5, 1.5))
            if self._over.is_set():
                return
            await work()

    async def _ask(self, count: int) -> None:
        """So many of the shorter requests at once, each judged as any other."""
        corpus = self.corpus
        if corpus is None:
            return
        short = [asked for asked in corpus.asked if asked.tokens <= 16] or list(corpus.asked)
        chosen = list(islice(cycle(self._drawn.sample(short, len(short))), count))
        started = time.monotonic()
        with self.crowded.open():
            answers = await wave(self._address, [asked.request for asked in chosen], seconds=240)
        for asked, answer in zip(chosen, answers, strict=True):
            self._judge(asked, answer, corpus, started)

    async def _flood(self) -> None:
        path = f"/backend.Backend/{self._drawn.choice(('Health', 'PredictStream'))}"
        with self.floods.open():
            await asyncio.to_thread(open_and_reset, self._address, path, FLOOD_CALLS)

    async def _fault(self) -> None:
        if self._orders.exists():
            return  # nobody has called the model since
        draft = self._orders.with_suffix(".draft")
        draft.write_text(f"{self._drawn.choice(KINDS)} 1")
        with self.faulty.open():
            draft.rename(self._orders)
            while self._orders.exists() and not self._over.is_set():
                await asyncio.sleep(0.05)
