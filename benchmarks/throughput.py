"""Tokens a second of the worker beside mlx-lm's BatchGenerator, on the same prompts, in turn, in one run.

    python -m benchmarks.throughput [--streams 1 8 16] [--vocab 32000] [--rounds 3]

The raw side is a process that runs BatchGenerator alone, without tokeniser, text or clients. Each side has the
machine to itself while it runs; both use the same BLAS with the same number of threads.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, Timeline, Worker, model, worker

PROMPT_BYTES = 64
RAW = """
import json, sys, time
from backend.engine.loading.blas import load_blas
load_blas()
from mlx_lm import load
from mlx_lm.generate import BatchGenerator
model, _ = load(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    generator = BatchGenerator(model, max_tokens=job["tokens"], stop_tokens=[], prefill_step_size=512)
    started, count = time.perf_counter(), 0
    generator.insert(job["prompts"])
    while responses := generator.next_generated():
        count += len(responses)
    print(count / (time.perf_counter() - started), flush=True)
"""


def prompts(streams: int, salt: int) -> list[str]:
    """Texts of equal length that share no beginning, so that no cache helps."""
    return [f"{salt:04d}{index:04d}".ljust(PROMPT_BYTES, "abcdefghijklmnop"[index % 16]) for index in range(streams)]


class Raw:
    """The process that runs BatchGenerator."""

    def __init__(self, path: Path, threads: int) -> None:
        environment = dict(os.environ, OPENBLAS_NUM_THREADS=str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-c", RAW, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def tokens_a_second(self, texts: list[str], tokens: int) -> float:
        """One batch from insert to the last token."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"prompts": [list(text.encode()) for text in texts], "tokens": tokens}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def request(text: str, index: int, tokens: int, mixed: bool) -> pb.PredictOptions:
    """A stream that never ends early; `mixed` gives each its own sampling settings and seed."""
    options = pb.PredictOptions(Prompt=text, Tokens=tokens, IgnoreEOS=True)
    if mixed:
        options.Temperature, options.Seed = 0.6 + 0.1 * (index % 8), index
        options.TopK = (0, 20, 40, 0, 100, 40, 0, 5)[index % 8]
        options.TopP = (0.9, 1.0, 0.95, 0.8, 0.9, 1.0, 0.99, 0.9)[index % 8]
        options.MinP = (0.0, 0.05, 0.0, 0.02, 0.0, 0.1, 0.0, 0.0)[index % 8]
        options.Penalty = (1.0, 1.1, 1.0, 1.2, 1.05, 1.0, 1.0, 1.1)[index % 8]
        options.FrequencyPenalty = (0.0, 0.0, 0.3, 0.0, 0.0, 0.2, 0.0, 0.0)[index % 8]
    return options


async def served(server: Worker, texts: list[str], tokens: int, *, mixed: bool) -> float:
    """One batch of streams through the worker, from the first request to the last token."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    lines: list[Timeline] = await asyncio.gather(
        *(server.stream(request(text, index, tokens, mixed)) for index, text in enumerate(texts))
    )
    assert all(line.tokens == tokens for line in lines)
    return sum(line.tokens for line in lines) / (loop.time() - started)


async def measure(options: argparse.Namespace) -> None:
    path = model(f"plain-{options.vocab}-{options.hidden}", vocab=options.vocab, hidden=options.hidden, layers=8)
    raw = Raw(path, options.threads)
    rows: list[list[object]] = []
    async with worker(threads=options.threads) as server:
        await server.load(path, "prompt_cache_size:0")
        blas = await server.blas()
        for streams in options.streams:
            figures: dict[str, list[float]] = {"raw": [], "greedy": [], "mixed": []}
            for round_ in range(options.rounds + 1):
                texts = prompts(streams, round_)
                measured = {
                    "raw": await asyncio.to_thread(raw.tokens_a_second, texts, options.tokens),
                    "greedy": await served(server, texts, options.tokens, mixed=False),
                    "mixed": await served(server, texts, options.tokens, mixed=True),
                }
                if round_:  # the first warms both up
                    for name, value in measured.items():
                        figures[name].append(value)
            ratio = [ours / theirs for ours, theirs in zip(figures["greedy"], figures["raw"], strict=True)]
            mixed = [ours / theirs for ours, theirs in zip(figures["mixed"], figures["greedy"], strict=True)]
            median = {name: statistics.median(values) for name, values in figures.items()}
            rows.append(
                [
                    streams,
                    *median.values(),
                    1e3 * streams / median["raw"],
                    statistics.median(ratio),
                    statistics.median(mixed),
                ]
            )
    raw.close()
    report = Report(options)
    size = f"vocabulary {options.vocab}, width {options.hidden}, {options.tokens} tokens a stream"
    report.note(f"{size}, BLAS {blas}")
    sides = ["raw tok/s", "worker tok/s", "8 settings tok/s"]
    report.table(["streams", *sides, "raw ms/step", "worker/raw", "mixed/greedy"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the BLAS, on both sides")
    asyncio.run(measure(parse(parser, streams=[1, 4], hidden=256, tokens=16, rounds=1)))


if __name__ == "__main__":
    main()
