"""Whether what a process holds grows: a line through what was seen, rather than a first and a last look."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests import observed

EVERY_SECONDS = 2.0


@dataclass(slots=True)
class Growth:
    """Minutes since the beginning, bytes in memory, threads and descriptors of a process."""

    pid: int
    samples: list[tuple[float, int, int, int]] = field(default_factory=list[tuple[float, int, int, int]])

    async def watch(self) -> None:
        """Look until cancelled."""
        started = time.monotonic()
        while True:
            self.samples.append(
                (
                    (time.monotonic() - started) / 60,
                    observed.resident_bytes(self.pid),
                    observed.threads(self.pid).total(),
                    observed.descriptors(self.pid).total(),
                )
            )
            await asyncio.sleep(EVERY_SECONDS)

    def slopes(self, *, after: float) -> tuple[float, float, float]:
        """MiB, threads and descriptors a minute, of the samples after so many minutes.

        Of memory the least of each minute counts: gRPC holds what a flood has opened for some seconds, hundreds of MiB
        beside which a leak could not be seen.
        """
        kept = [sample for sample in self.samples if sample[0] >= after] or self.samples
        minutes = [sample[0] for sample in kept]
        threads, descriptors = (slope(minutes, [sample[n] for sample in kept]) for n in (2, 3))
        floor = [(minute, least) for minute, least in self.floor() if minute >= after] or self.floor()
        return slope([minute for minute, _ in floor], [least for _, least in floor]), threads, descriptors

    def floor(self) -> list[tuple[float, float]]:
        """The least MiB of each minute that was seen whole, and the minute that it began with."""
        least: dict[int, float] = {}
        for minute, memory, *_ in self.samples:
            least[int(minute)] = min(memory / (1 << 20), least.get(int(minute), float("inf")))
        whole = len(least) - 1 or 1
        return [(float(minute), mib) for minute, mib in sorted(least.items())[:whole]]

    def most(self) -> tuple[float, int, int]:
        """The most MiB, threads and descriptors at any time."""
        return (
            max(sample[1] for sample in self.samples) / (1 << 20),
            max(sample[2] for sample in self.samples),
            max(sample[3] for sample in self.samples),
        )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line of least squares; 0 where there is none."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
