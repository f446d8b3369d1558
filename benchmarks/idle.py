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


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def bytes_by_use(server: Worker) -> Mapping[str, int]:
    """Of the worker's memory."""
    return (await server.stub.Status(pb.HealthMessage())).memory.breakdown


async def resident_asleep(server: Worker) -> int:
    """Bytes of the process, once the weights are gone."""
    while (await bytes_by_use(server))["weights"]:  # noqa: ASYNC110  another process has no event to wait for
        await asyncio.sleep(0.02)
    return (await bytes_by_use(server))["process"]


async def first_token(server: Worker) -> float:
    """Seconds until the prompt's first token."""
    return (await server.stream(pb.PredictOptions(Prompt=PROMPT, Tokens=1, IgnoreEOS=True))).first


async def row(shape: str, rounds: int) -> list[object]:
    """One model's figures."""
    path = checkpoint(shape)
    async with worker() as server:
        loads: list[float] = []
        for _ in range(rounds + 1):
            await server.stub.Free(pb.HealthMessage())
            loads.append(await seconds(lambda: server.load(path)))
        await first_token(server)
        warm = [await first_token(server) for _ in range(rounds)]
        await server.load(path, f"model_idle_s:{IDLE_S}")
        await first_token(server)
        awake = (await bytes_by_use(server))["process"]
        left, woken = 0, list[float]()
        for _ in range(rounds):
            left = await resident_asleep(server)
            woken.append(await first_token(server))
    median = statistics.median
    return [shape, awake / MIB, left / MIB, median(loads[1:]), median(warm), median(woken)]


async def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    report = Report(options)
    rows = [await row(shape, options.rounds) for shape in options.shapes]
    report.note(f"medians of {options.rounds}, in a process that has loaded the model before")
    headings = ["model", "MiB awake", "MiB asleep", "load s", "first token s, awake", "first token s, asleep"]
    report.table(headings, rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", nargs="*", default=["90m", "1b"], choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parse(parser, shapes=["tiny"], rounds=1)))


if __name__ == "__main__":
    main()
