"""What a model that sleeps gives back, and what the next request waits for it.

    python -m benchmarks.idle [--shapes 90m 1b] [--rounds 5]

Models of random numbers in real shapes, each loaded in a worker that has loaded it before: libraries are imported and
the files are in the system's memory, for a load as for an awakening. The prompt was asked before, so its first token
comes from the prompt cache; the last columns are the wait for it.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.check.shapes import SHAPES, write_checkpoint
from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import MODELS, Worker, worker

IDLE_S = 0.2
PROMPT = "What is asked again after a while. " * 20
MIB = 1 << 20


def checkpoint(shape: str) -> Path:
    """A model of that shape, written at the first use."""
    path = MODELS / f"idle-{shape}"
    return path if (path / "model.safetensors").exists() else write_checkpoint(path, SHAPES[shape])


@dataclass(slots=True)
class Times:
    """Of one kind of work, again and again: seconds by the clock, and of the worker's processor time."""

    wall: list[float] = field(default_factory=list[float])
    processor: list[float] = field(default_factory=list[float])

    async def add(self, server: Worker, work: Callable[[], Awaitable[object]]) -> None:
        """Do it once more."""
        before, started = server.cpu_seconds(), time.perf_counter()
        await work()
        self.wall.append(time.perf_counter() - started)
        self.processor.append(server.cpu_seconds() - before)

    def cells(self) -> list[float]:
        """Medians."""
        return [statistics.median(self.wall), statistics.median(self.processor)]


async def bytes_by_use(server: Worker) -> Mapping[str, int]:
    """Of the worker's memory."""
    return (await server.stub.Status(pb.HealthMessage())).memory.breakdown


async def resident_asleep(server: Worker) -> int:
    """Bytes of the process, once the weights are gone."""
    while (await bytes_by_use(server))["weights"]:  # noqa: ASYNC110  another process has no event to wait for
        await asyncio.sleep(0.02)
    return (await bytes_by_use(server))["process"]


async def row(shape: str, rounds: int) -> list[object]:
    """One model's figures."""
    path = checkpoint(shape)
    loads, awake, asleep = Times(), Times(), Times()
    async with worker() as server:

        async def first_token() -> None:
            await server.stream(pb.PredictOptions(Prompt=PROMPT, Tokens=1, IgnoreEOS=True))

        await server.load(path)
        for _ in range(rounds):
            await server.stub.Free(pb.HealthMessage())
            await loads.add(server, lambda: server.load(path))
        await first_token()
        for _ in range(rounds):
            await awake.add(server, first_token)
        await server.load(path, f"model_idle_s:{IDLE_S}")
        await first_token()
        held, left = (await bytes_by_use(server))["process"], 0
        for _ in range(rounds):
            left = await resident_asleep(server)
            await asleep.add(server, first_token)
    return [shape, held / MIB, left / MIB, *loads.cells(), *awake.cells(), *asleep.cells()]


async def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    report = Report(options)
    rows = [await row(shape, options.rounds) for shape in options.shapes]
    report.note(f"medians of {options.rounds}, in a process that has loaded the model before")
    kinds = ("load", "first token, awake", "first token, asleep")
    headings = ["model", "MiB awake", "MiB asleep", *(f"{kind}{unit}" for kind in kinds for unit in (" s", ": CPU s"))]
    report.table(headings, rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", nargs="*", default=["90m"], choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parse(parser, shapes=["tiny"], rounds=1)))


if __name__ == "__main__":
    main()
