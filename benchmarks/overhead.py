"""What the worker itself costs: CPU time a token with a model of almost no work, at 16 streams.

    python -m benchmarks.overhead [--streams 16] [--tokens 400] [--sampler auto]

Processor time of the worker's process (user and system, all threads), and of the engine thread and the event loop
apart, over tokens delivered. The model has one layer of width 32, so nearly all of it is the worker's own: MLX's graph
building for the step included. Beside it the same settings in mlx-lm's BatchGenerator, in CPU time of a process that
does nothing else.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path

import psutil

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import MODELS, ROOT, Worker, worker

RAW = """
import json, sys, time
from mlx_lm import load
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_logits_processors, make_sampler
model, _ = load(sys.argv[1])
streams, tokens, settings = int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
sampler = make_sampler(settings.get("Temperature", 0.0), top_p=settings.get("TopP", 0.0), top_k=settings.get("TopK", 0))
processors = make_logits_processors(None, settings.get("Penalty"), 64, None, 20, settings.get("FrequencyPenalty"), 64)
best = settings.get("TopLogprobs", 0)
for round_ in range(2):
    generator = BatchGenerator(model, max_tokens=tokens, stop_tokens=[], sampler=sampler, logits_processors=processors)
    started, count = time.process_time(), 0
    generator.insert([[65 + i] * 16 for i in range(streams)])
    while responses := generator.next_generated():
        count += len(responses)
        if best:
            found = [sorted(enumerate(r.logprobs.tolist()), key=lambda pair: -pair[1])[:best] for r in responses]
    print(1e6 * (time.process_time() - started) / count)
"""
KINDS: tuple[tuple[str, dict[str, float]], ...] = (
    ("greedy", {}),
    ("sampled", {"Temperature": 0.8, "TopK": 40, "TopP": 0.95}),
    ("sampled, penalties", {"Temperature": 0.8, "TopK": 40, "Penalty": 1.1, "FrequencyPenalty": 0.2}),
    ("greedy, logprobs", {"Logprobs": 5, "TopLogprobs": 5}),
)


def tiny_model() -> Path:
    """One layer of width 32."""
    path = MODELS / "tiny"
    if not (path / "tokenizer_config.json").exists():
        code = "from pathlib import Path; from tests.models import write_model; "
        code += f"write_model(Path({str(path)!r}), layers=1, hidden=32)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return path


def thread_seconds(pid: int) -> dict[int, float]:
    """CPU seconds of each thread so far, by id; nothing where the system does not show them, as macOS."""
    try:
        return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}
    except psutil.AccessDenied:
        return {}


async def spend(server: Worker, streams: int, tokens: int, salt: int, **settings: float) -> tuple[float, list[float]]:
    """Microseconds of CPU a token: all threads, and the two busiest."""
    pid = server.process.pid
    before, threads = server.cpu_seconds(), thread_seconds(pid)
    requests = [
        pb.PredictOptions(Prompt=f"{salt}-{i:02d}".ljust(16, "x"), Tokens=tokens, IgnoreEOS=True, Seed=i, **settings)
        for i in range(streams)
    ]
    lines = await asyncio.gather(*(server.stream(request) for request in requests))
    total = sum(line.tokens for line in lines)
    spent = sorted((t - threads.get(name, 0.0) for name, t in thread_seconds(pid).items()), reverse=True)
    return 1e6 * (server.cpu_seconds() - before) / total, [1e6 * seconds / total for seconds in spent[:2]]


async def raw_cost(path: Path, streams: int, tokens: int, settings: dict[str, float]) -> float:
    """Microseconds of CPU a token of BatchGenerator with these settings."""
    command = [sys.executable, "-c", RAW, str(path), str(streams), str(tokens), json.dumps(settings)]
    run = await asyncio.to_thread(subprocess.run, command, check=True, cwd=ROOT, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


async def measure(options: argparse.Namespace) -> None:
    path = tiny_model()
    rows: list[list[object]] = []
    async with worker("--blas", "reference") as server:
        await server.load(path, "prompt_cache_size:0", f"sampler:{options.sampler}")
        for name, settings in KINDS:
            raw = await raw_cost(path, options.streams, options.tokens, settings)
            await spend(server, options.streams, 50, 0, **settings)
            cost, threads = await spend(server, options.streams, options.tokens, 1, **settings)
            busiest = [*threads, "", ""][:2]
            rows.append([name, cost, *busiest, raw, cost / raw])
    report = Report(options)
    size = f"{options.streams} streams, {options.tokens} tokens each, one layer of width 32"
    report.note(f"{size}; microseconds of CPU a token")
    report.table(["what", "worker", "busiest thread", "second", "BatchGenerator alone", "worker over it"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--sampler", choices=("auto", "host", "device"), default="auto")
    asyncio.run(measure(parse(parser, tokens=50)))


if __name__ == "__main__":
    main()
