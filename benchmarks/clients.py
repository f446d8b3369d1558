"""Eight clients, eight conversations, one system prompt, and a cache for half of it all; beside mlx-lm's cache.

    python -m benchmarks.clients [--clients 8] [--turns 6] [--shares 0.5 1] [--rounds 3]

The budget is a share of the KV bytes of all distinct tokens (a trie of every prompt and answer). Each client sends
its next turn when its last answer is over. mlx-lm's LRUPromptCache gets the same prompts and the same bytes around
its own BatchGenerator, as `mlx_lm.server` has them (`benchmarks.lru_driver`), in a process without clients or
sockets. The sides take turns; medians over the rounds. The history has scripted answers, the same for both.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from backend.pb import backend_pb2 as pb
from benchmarks.agent_loop import Trie
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, Timeline, Worker, model, worker
from benchmarks.ttft import text

LAYERS, KV_HEADS, FLOAT_BYTES = 8, 2, 4


def prompts_of(client: int, options: argparse.Namespace) -> list[str]:
    """The prompts of one client's turns: each is the one before, a scripted answer and a new message."""
    prompt = text("shared", options.system)
    prompts: list[str] = []
    for turn in range(options.turns):
        prompt += "\nuser: " + text(f"{client}user{turn}", options.message) + "\nassistant: "
        prompts.append(prompt)
        prompt += text(f"{client}answer{turn}", options.answer)
    return prompts


def kv_bytes(conversations: list[list[str]], options: argparse.Namespace) -> int:
    """Bytes of the KV of all distinct tokens, generated ones included."""
    trie = Trie()
    for prompts in conversations:
        for prompt in prompts:
            trie.add(list(prompt.encode()))
    answers = options.answer * sum(len(prompts) for prompts in conversations)
    width = options.hidden // 4
    return (trie.size + answers) * LAYERS * 2 * KV_HEADS * width * FLOAT_BYTES


class LruSide:
    """The process with mlx-lm's cache."""

    def __init__(self, path: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lru_driver", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=dict(os.environ, OPENBLAS_NUM_THREADS=str(threads)),
        )

    def serve(self, conversations: list[list[str]], n_bytes: int, options: argparse.Namespace) -> dict[str, float]:
        """Run all conversations; see `lru_driver`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        ids = [[list(prompt.encode()) for prompt in prompts] for prompts in conversations]
        job = {"bytes": n_bytes, "tokens": options.answer, "system": options.system, "conversations": ids}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


async def converse(server: Worker, prompts: list[str], tokens: int) -> list[Timeline]:
    """One client from its first turn to its last."""
    return [await server.stream(pb.PredictOptions(Prompt=p, Tokens=tokens, IgnoreEOS=True)) for p in prompts]


async def served(
    path: Path, conversations: list[list[str]], n_bytes: int, options: argparse.Namespace
) -> dict[str, float]:
    """All conversations through a fresh worker's empty cache."""
    async with worker(threads=options.threads) as server:
        await server.load(path, f"prompt_cache_bytes:{n_bytes}")
        await server.stream(pb.PredictOptions(Prompt="warm " * 20, Tokens=8, IgnoreEOS=True))
        started = time.perf_counter()
        answers = await asyncio.gather(*(converse(server, prompts, options.answer) for prompts in conversations))
        seconds = time.perf_counter() - started
        held = (await server.queue())["cached_kv_bytes"]
    lines = [line for answer in answers for line in answer]
    return {
        "seconds": seconds,
        "asked": sum(line.prompt_tokens for line in lines),
        "cached": sum(line.cached_tokens for line in lines),
        "generated": sum(line.tokens for line in lines),
        "held": held,
    }


def row(share: float, n_bytes: int, side: str, results: list[dict[str, float]]) -> list[object]:
    """Medians of one side: hit rate, prefilled tokens, seconds, tokens a second."""
    hit = statistics.median(r["cached"] / r["asked"] for r in results)
    prefilled = statistics.median(r["asked"] - r["cached"] for r in results)
    seconds = statistics.median(r["seconds"] for r in results)
    speed = statistics.median(r["generated"] / r["seconds"] for r in results)
    return [share, n_bytes >> 20, side, hit, int(prefilled), seconds, speed, int(max(r["held"] for r in results)) >> 20]


async def measure(options: argparse.Namespace) -> None:
    path = model(f"plain-32000-{options.hidden}", vocab=32_000, hidden=options.hidden, layers=LAYERS)
    conversations = [prompts_of(client, options) for client in range(options.clients)]
    whole = kv_bytes(conversations, options)
    rows: list[list[object]] = []
    for share in options.shares:
        budget = int(share * whole)
        ours: list[dict[str, float]] = []
        theirs: list[dict[str, float]] = []
        for _ in range(options.rounds):
            ours.append(await served(path, conversations, budget, options))
            side = LruSide(path, options.threads)
            theirs.append(await asyncio.to_thread(side.serve, conversations, budget, options))
            side.close()
        rows += [row(share, budget, "worker", ours), row(share, budget, "mlx-lm LRUPromptCache", theirs)]
    asked = sum(len(prompt) for prompts in conversations for prompt in prompts)
    report = Report(options)
    report.note(
        f"{options.clients} clients, {options.turns} turns each, a shared system prompt of {options.system} tokens, "
        f"{asked} prompt tokens, answers of {options.answer}, width {options.hidden}, {whole >> 20} MiB of KV in all"
    )
    headings = ["share", "budget MiB", "cache", "hit rate", "prefilled", "seconds", "answer tok/s", "held MiB"]
    report.table(headings, rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--system", type=int, default=1024, help="tokens")
    parser.add_argument("--message", type=int, default=128, help="tokens of a user's message")
    parser.add_argument("--answer", type=int, default=32, help="tokens")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5], help="of the bytes of all distinct KV")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the BLAS, on both sides")
    asyncio.run(measure(parse(parser, clients=4, turns=2, system=256, rounds=1)))


if __name__ == "__main__":
    main()
