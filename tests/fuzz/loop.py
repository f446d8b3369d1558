"""The loop: an input is changed and run; one that reaches what none has reached is kept, to be changed further."""

import contextlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from backend.confined.memory import resident_bytes
from tests.fuzz.changing import Words
from tests.fuzz.reached import ROOT, Reached
from tests.fuzz.target import Broken, Target

_RECENT = 24
_STRAYS, _MOST_STRAYS = 0.01, 200
# Of the clock, for what is not slow of itself.
_BUSY_SECONDS = 60.0
_SMALLER_TRIES, _SMALLER_SECONDS = 400, 8.0
_PRODUCT = ("backend", "mlx_cache")
# What getrusage counts in.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class _Late(BaseException):
    """The input took too long. No error of `Exception`, which the product may catch."""


@dataclass(frozen=True, slots=True)
class Find:
    """An input that breaks its target's contract.

    Attributes:
        what: The same for all finds that are one.
        told: The end of the traceback.
    """

    what: str
    told: str
    data: bytes


class Fuzzer:
    """Runs one target. Main thread, for the clock that ends an input.

    Args:
        reached: What tells new inputs from others; None for none.
        note: Told each input before it runs, in case that nothing is told afterwards.
    """

    def __init__(
        self,
        target: Target,
        *,
        seed: int,
        reached: Reached | None = None,
        note: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        self.executions = 0
        self.finds: dict[str, Find] = {}
        self.corpus: list[bytes] = []
        self.signs: set[int] = set()
        self._target = target
        self._rng = random.Random(seed)
        self._reached = reached
        self._words: Words = reached.words if reached else ()
        self._note = note
        self._accepted = False

    def begin(self) -> None:
        """Run the seeds."""
        for seed in self._target.seeds:
            self._take(seed, keep=True)
        self.corpus = self.corpus or list(self._target.seeds)

    def step(self) -> None:
        """Run one more input."""
        recent = self.corpus[-_RECENT:] if self._rng.random() < 0.5 else self.corpus
        self._take(self._target.change(self._rng, self._rng.choice(recent), self._words))

    def _take(self, data: bytes, *, keep: bool = False) -> None:
        found = self._run(data)
        new = self._reached.signs() - self.signs if self._reached is not None else set[int]()
        self.signs |= new
        # Where most of the work is done by code without marks, what is not refused is all there is to go by.
        strays = self._accepted and len(self.corpus) < _MOST_STRAYS and self._rng.random() < _STRAYS
        if found is None and (new or keep or strays):
            self.corpus.append(data)
        if found is not None and found.what not in self.finds:
            self.finds[found.what] = found
            if self._target.repeatable:
                self.finds[found.what] = self._smaller(found)

    def _run(self, data: bytes) -> Find | None:
        """What is wrong with what the target does, if anything is."""
        self.executions += 1
        self._accepted = False
        self._note(data)
        if self._reached is not None:
            self._reached.clear()
        before = _bytes()
        try:
            with _at_most(self._target.seconds):
                self._target.run(data)
            self._accepted = True
        except self._target.refusals:
            pass
        except _Late as late:
            return _find(late, data, f"over {self._target.seconds:g} s")
        # What is neither is nobody's error: pyo3's panics among them.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return _find(error, data)
        if max(now - then for now, then in zip(_bytes(), before, strict=True)) > self._target.memory:
            return Find(f"over {self._target.memory >> 20} MiB", "", data)
        return None

    def _smaller(self, found: Find) -> Find:
        """The same find with less of the input."""
        until = time.monotonic() + _SMALLER_SECONDS
        tries, size = _SMALLER_TRIES, max(1, len(found.data) // 2)
        while size and tries and time.monotonic() < until:
            at = 0
            while at < len(found.data) and tries and time.monotonic() < until:
                tries -= 1
                less = self._run(found.data[:at] + found.data[at + size :])
                if less is not None and less.what == found.what:
                    found = less
                else:
                    at += size
            size //= 2
        return found


def _find(error: BaseException, data: bytes, what: str = "") -> Find:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(str(ROOT))]
    product = [frame for frame in ours if frame.filename[len(str(ROOT)) + 1 :].startswith(_PRODUCT)]
    place = (product or ours or list(frames))[-1]
    where = f"{place.filename.removeprefix(f'{ROOT}/')}:{place.lineno}"
    what = what or (error.what if isinstance(error, Broken) else type(error).__name__)
    name = what if isinstance(error, Broken) else f"{what} at {where}"
    return Find(name, "".join(traceback.format_exception(error)[-4:])[-1500:], data)


@contextlib.contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """So long of the processor's time, and of the clock's where it waits: a busy machine is no hang."""
    waits = max(seconds, _BUSY_SECONDS)
    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, waits))
    before = [signal.signal(number, _late) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _late(number: int, frame: FrameType | None) -> NoReturn:
    raise _Late


def _bytes() -> tuple[int, int]:
    """What the process has resident, and the most that it had; the latter begins with its parent's."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    # Elsewhere a question to ps(1), which would take longer than an input.
    resident = resident_bytes(os.getpid()) if sys.platform == "linux" else None
    return resident or peak, peak
