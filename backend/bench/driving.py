"""Runs a plan against one server or several, in turn, so that none of them has the machine's better hour."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backend.bench.measured import Measured
from backend.bench.plan import Planned
from backend.client.answers import Stopwatch


class Target(Protocol):
    """A server that is asked."""

    name: str

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def answer(self, planned: Planned, measured: Measured) -> None: ...


@dataclass(slots=True)
class Run:
    """What one server has done so far.

    Attributes:
        seconds: In which it was asked, those of others' rounds apart.
        began: Of its rounds; seconds of `time.perf_counter`.
        not_begun: Requests that had arrived when the time was over, and had found no stream free.
    """

    name: str
    measured: list[Measured] = field(default_factory=list[Measured])
    seconds: float = 0.0
    began: list[float] = field(default_factory=list[float])
    not_begun: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Event loop only.

    Attributes:
        streams: Requests at a time; an arrival that finds none free waits, and its wait counts.
        seconds: Of each server, at most; what runs then is cut, and is no failure.
        tell: Called after each request.
    """

    streams: int
    seconds: float
    tell: Callable[[], None] = lambda: None

    async def warm_up(self, targets: Sequence[Target], planned: Sequence[Planned]) -> None:
        """Ask each server, one request after the other, and measure nothing.

        Raises:
            ValueError: One does not answer; one sentence.
        """
        for target in targets:
            for one in planned:
                measured = Measured(watch=Stopwatch(time.perf_counter()))
                await target.answer(one, measured)
                if measured.error:
                    raise ValueError(f"{target.name}: {measured.error}")

    async def run(self, targets: Sequence[Target], parts: Sequence[Sequence[Planned]], runs: Sequence[Run]) -> None:
        """Each part against each server, in turns whose order alternates; results are in `runs` as they come."""
        for place, part in enumerate(parts):
            pairs = list(zip(targets, runs, strict=True))
            for target, run in pairs if place % 2 == 0 else reversed(pairs):
                left = self.seconds - run.seconds
                if left > 0:
                    await self._part(target, part, run, min(left, self.seconds / len(parts) * 2))

    async def _part(self, target: Target, part: Sequence[Planned], run: Run, seconds: float) -> None:
        start = time.perf_counter()
        run.began.append(start)
        todo, before = iter(part), len(run.measured)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(min(self.streams, len(part))):
                    group.create_task(self._stream(target, todo, run, start))
        except TimeoutError:
            pass
        finally:
            took = time.perf_counter() - start
            run.seconds += took
            arrived = sum(one.at is not None and one.at <= min(took, seconds) for one in part)
            run.not_begun += max(0, arrived - (len(run.measured) - before))

    async def _stream(self, target: Target, todo: Iterator[Planned], run: Run, start: float) -> None:
        for planned in todo:
            began = time.perf_counter()
            if planned.at is not None:
                await asyncio.sleep(start + planned.at - began)
                began = start + planned.at
            measured = Measured(watch=Stopwatch(began))
            run.measured.append(measured)
            try:
                await target.answer(planned, measured)
            except asyncio.CancelledError:
                # What the cut itself broke is no error of the server's.
                measured.cut, measured.error = True, ""
                raise
            self.tell()
