"""How long running streams wait while another client's long prompt is prefilled, against the size of a chunk.

    python -m benchmarks.fairness [--chunks 128 256 512 1024] [--prompt 8192] [--streams 8]

Streams that decode are read by one client each; once all run, a prompt of 8k tokens arrives. The gaps are those
between two pieces of one stream, first while nothing is prefilled, then until the long prompt's first piece. The
bound is a decode step and two chunks of the prompt's end, the slowest ones since attention grows with the position.
A chunk's time there is the slope of T(n) = a n + b n^2, fitted to prompts of half and of the whole length prefilled
alone.
"""

import argparse
import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import Timeline, Worker, model, worker

TOKENS = 100_000


async def watched(server: Worker, index: int, stamps: list[float]) -> None:
    """Read one endless stream, noting when each piece comes."""
    text = f"{index:03d} stream ".ljust(64, "x")
    call = server.stub.PredictStream(pb.PredictOptions(Prompt=text, Tokens=TOKENS, IgnoreEOS=True))
    async for _ in call:
        stamps.append(time.perf_counter())  # noqa: PERF401  read while it grows


def gaps(stamps: list[list[float]], start: float, end: float) -> np.ndarray:
    """Milliseconds between two pieces of a stream, those that end in `[start, end)`."""
    return np.array([1e3 * (b - a) for one in stamps for a, b in pairwise(one) if start <= b < end])


async def prefilled(server: Worker, tokens: int, text: str) -> float:
    """Seconds to the first piece of a prompt of so many tokens."""
    prompt = pb.PredictOptions(Prompt=(text * tokens)[:tokens], Tokens=1, IgnoreEOS=True)
    line: Timeline = await server.stream(prompt)
    return line.first


def last_chunk(alone: list[float], tokens: int, chunk: int) -> float:
    """Seconds that the last chunk takes, from the times of half and whole."""
    half, whole = alone
    # T(n/2) and T(n) of a n + b n^2, solved for a + 2 b n.
    return chunk * (3 * whole - 4 * half) / tokens


async def one_chunk(path: Path, chunk: int, options: argparse.Namespace) -> list[float]:
    """Chunk size; p50, p99, worst gap before; the same during; the long prompt's first token; a chunk's own time."""
    async with worker() as server:
        await server.load(path, f"prefill_chunk:{chunk}", "prompt_cache_size:0")
        alone = [await prefilled(server, tokens, "alone ") for tokens in (options.prompt // 2, options.prompt)]
        stamps: list[list[float]] = [[] for _ in range(options.streams)]
        readers = [asyncio.create_task(watched(server, index, one)) for index, one in enumerate(stamps)]
        while min(len(one) for one in stamps) < 20:  # noqa: ASYNC110  the readers have nothing better to tell
            await asyncio.sleep(0.05)
        quiet = time.perf_counter()
        await asyncio.sleep(3.0)
        arrival = time.perf_counter()
        first = await prefilled(server, options.prompt, "beside")
        end = time.perf_counter()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    before, during = gaps(stamps, quiet, arrival), gaps(stamps, arrival, end)
    step = float(np.median(before))
    quantiles = [float(np.quantile(values, q)) for values in (before, during) for q in (0.5, 0.99, 1.0)]
    own = 1e3 * last_chunk(alone, options.prompt, chunk)
    return [chunk, *quantiles, first, own, quantiles[4] / (step + 2 * own)]


async def measure(options: argparse.Namespace) -> None:
    path = model("plain-32000-512", vocab=32_000, hidden=512, layers=8)
    rows = [await one_chunk(path, chunk, options) for chunk in options.chunks]
    report = Report(options)
    report.note(f"{options.streams} streams decode, a prompt of {options.prompt} tokens arrives; milliseconds")
    before, during = ["p50 before", "p99", "worst"], ["p50 during", "p99", "worst"]
    report.table(["chunk", *before, *during, "first token s", "a chunk", "p99 / bound"], rows)
    report.plot(lambda axes: draw(axes, rows))


def draw(axes: Any, rows: list[list[float]]) -> None:
    """Gaps against the size of a chunk."""
    chunks = [row[0] for row in rows]
    for label, column in (("p50", 4), ("p99", 5), ("worst", 6)):
        axes.plot(chunks, [row[column] for row in rows], marker="o", label=f"{label} gap")
    axes.plot(chunks, [row[1] + 2 * row[8] for row in rows], "k--", label="step + two chunks")
    axes.set(xscale="log", xlabel="prefill chunk, tokens", ylabel="ms between two tokens of a running stream")
    axes.set_xticks(chunks, [str(int(chunk)) for chunk in chunks])
    axes.minorticks_off()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--prompt", type=int, default=8192)
    parser.add_argument("--streams", type=int, default=8)
    asyncio.run(measure(parse(parser, chunks=[128, 256], prompt=1024)))


if __name__ == "__main__":
    main()
