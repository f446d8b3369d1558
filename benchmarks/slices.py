"""What slices of layers are worth: prefill chunks that run some layers at a time against chunks in one piece.

    python -m benchmarks.slices [--chunk 512] [--prompt 2048] [--streams 2]

A model of 90 million parameters. The gaps are those between two pieces of a running stream while another client's long
prompt is prefilled; the first token is that of a prompt of 32 tokens that arrives beside the long one. Idle is the long
prompt alone, in tokens a second; the last column is that of the slices over that of the whole, of pairs run in turn.
"""

import argparse
import asyncio
import statistics
import time

from benchmarks.fairness import gaps, prefilled, watched
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import Worker, model, worker

# The worker as it is, but that no chunk stops between two layers.
WHOLE = """
from backend.engine.batching.pace import Pace
Pace.bound = lambda self, *, streams: 1e9
from backend.__main__ import main
main()
"""
PROGRAMS = {"in one piece": ("-c", WHOLE), "in slices": ("-m", "backend")}


async def beside(server: Worker, options: argparse.Namespace) -> list[float]:
    """Milliseconds: p50, p99, longest gap of running streams beside a long prompt; first token of a short one."""
    stamps: list[list[float]] = [[] for _ in range(options.streams)]
    readers = [asyncio.create_task(watched(server, index, one)) for index, one in enumerate(stamps)]
    while min(len(one) for one in stamps) < 5:  # noqa: ASYNC110  the readers have nothing better to tell
        await asyncio.sleep(0.05)
    started = time.perf_counter()
    long = asyncio.create_task(prefilled(server, options.prompt, "beside"))
    await asyncio.sleep(0.2)
    first = await prefilled(server, 32, "short ")
    await long
    found = gaps(stamps, started, time.perf_counter())
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return [statistics.median(found), statistics.quantiles(found, n=100)[-1], max(found), 1e3 * first]


async def measure(options: argparse.Namespace) -> None:
    path = model("plain-32000-640", vocab=32_000, hidden=options.hidden, layers=10)
    rows: list[list[object]] = []
    idle: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for name, program in PROGRAMS.items():
        async with worker(program=program) as server:
            await server.load(path, f"prefill_chunk:{options.chunk}", "prompt_cache_size:0")
            await prefilled(server, options.chunk, "warm ")
            rows.append([name, *await beside(server, options)])
    for _ in range(options.rounds):
        for name, program in PROGRAMS.items():
            async with worker(program=program) as server:
                await server.load(path, f"prefill_chunk:{options.chunk}", "prompt_cache_size:0")
                await prefilled(server, options.chunk, "warm ")
                idle[name].append(options.prompt / await prefilled(server, options.prompt, "alone "))
    for row in rows:
        speeds = idle[str(row[0])]
        ratios = [one / whole for one, whole in zip(speeds, idle["in one piece"], strict=True)]
        row.extend([statistics.median(speeds), statistics.median(ratios)])
    report = Report(options)
    report.note(
        f"chunks of {options.chunk}, a prompt of {options.prompt} beside {options.streams} streams; milliseconds"
    )
    report.table(["chunk", "p50 gap", "p99", "longest", "first token", "idle tokens/s", "over one piece"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parse(parser, chunk=128, prompt=512, rounds=1)))


if __name__ == "__main__":
    main()
