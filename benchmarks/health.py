"""How long Health takes while the worker is busy, and how long a worker takes from exec to its first OK.

    python -m benchmarks.health [--seconds 6] [--starts 10] [--single 10]

A process of its own asks every 5 ms, and counts from when it meant to ask, so that a stall of the worker shows in
every question that fell into it. Then the same again while that process also reads a stream: the longest pause of this
neighbour stands beside the time of two prefill chunks. So far the same work is done again and again, without a rest.
"During one" is work done once beside such a stream, of many such times with rests between: of the questions that fell
into it alone. The last column is what a second of rest leaves of the memory that the work took. The model is a Llama of
51 million random parameters, except for texts and large requests, which tiny-chat takes (byte pairs): a row each for
requests that are the worst of their kind.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import grpc
import psutil

from backend.check.random_tokenizer import LEAST_VOCAB
from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from backend.translate.wire_limits import MAX_MESSAGES, MAX_REQUEST_BYTES, MAX_TEXT_BYTES
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, Worker, model, worker
from tests.e2e.watching import Seen, Watch

CPU_CHUNK = 512  # tokens of a prefill chunk
REST_SECONDS = 0.5
TINY_CHAT = ROOT / "examples" / "tiny-chat" / "model"
MEGABYTE = "word and " * (1_000_000 // 9)
Work = Callable[[Worker], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of work did to others.

    Attributes:
        health: Milliseconds of every Health.
        beside: The same with a neighbour who reads a stream.
        single: The same of those alone that fell into work done once, with rests between.
        gap: The longest pause of that stream, in milliseconds.
        chunks: What the neighbour's model takes for two prefill chunks, in milliseconds.
        left: MiB of resident memory more than before, a second after the work.
    """

    health: list[float]
    beside: list[float] | None = None
    single: list[float] | None = None
    gap: float | None = None
    chunks: float | None = None
    left: float | None = None

    def cells(self) -> list[object]:
        health = [len(self.health), share(self.health, 0.5), share(self.health, 0.99), max(self.health)]
        beside, single = (values and share(values, 0.99) for values in (self.beside, self.single))
        rest = (beside, single, self.gap, self.chunks, self.left)
        return [*health, *("" if value is None else value for value in rest)]


async def while_busy(server: Worker, work: Work, options: argparse.Namespace, chunks: float | None = None) -> Row:
    """What others see while `work` is done again and again, and once; with a neighbour if `chunks`."""
    seconds = options.seconds
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    alone = await seen_of(server, work, seconds, neighbour=False)
    with_neighbour = await seen_of(server, work, seconds, neighbour=True) if chunks is not None else None
    single = await single_times(server, work, options.single, neighbour=chunks is not None)
    await asyncio.sleep(1)
    left = (process.memory_info().rss - before) / (1 << 20)
    health = [1e3 * s for s in alone.health]
    if with_neighbour is None:
        return Row(health, single=single, left=left)
    beside = [1e3 * s for s in with_neighbour.health]
    return Row(health, beside, single, 1e3 * max(with_neighbour.gaps), chunks, left)


async def seen_of(server: Worker, work: Work, seconds: float, *, neighbour: bool) -> Seen:
    """What another process sees of the worker meanwhile."""
    with Watch(server.address, neighbour=neighbour) as watch:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            await work(server)
    return watch.seen


async def single_times(server: Worker, work: Work, times: int, *, neighbour: bool) -> list[float]:
    """Milliseconds of the Healths during work that is done once, of all those times together."""
    spans: list[tuple[float, float]] = []
    with Watch(server.address, neighbour=neighbour) as watch:
        for _ in range(times):
            await asyncio.sleep(REST_SECONDS)
            began = time.perf_counter()
            await work(server)
            spans.append((began, time.perf_counter()))
    return [1e3 * took for span in spans for took in watch.seen.during(*span)]


async def two_chunks(server: Worker) -> float:
    """Milliseconds to the first piece of a prompt of two prefill chunks, with nobody else there."""
    wanted = 2 * CPU_CHUNK
    took: list[float] = []
    for _ in range(5):
        # Letters that seldom stand together are seldom one token.
        text = "".join(random.choices("qxzjkvw", k=wanted))
        line = await server.stream(pb.PredictOptions(Prompt=text, Tokens=1, IgnoreEOS=True, PromptCacheRO=True))
        took.append(1e3 * line.first * wanted / line.prompt_tokens)
    return share(took, 0.5)


async def nothing(_: Worker) -> None:
    """The worker at rest."""
    await asyncio.sleep(1)


def loading(path: Path) -> Work:
    """One load after another; two contexts take turns, since the same load again is nothing."""
    contexts = [1000, 2000]

    async def load(server: Worker) -> None:
        contexts.reverse()
        await server.load(path, f"context_size:{contexts[0]}")

    return load


def with_merges(path: Path) -> Path:
    """The model with byte pairs for the tokens that its tokenizer only has a place for, as a real one of its size."""
    file = path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    pairs, drawn = tokenizer["model"], random.Random(0)
    if pairs["merges"]:
        return path
    vocab = {piece: token for piece, token in pairs["vocab"].items() if token < LEAST_VOCAB}
    pieces = list(ascii_lowercase)
    while len(vocab) < len(pairs["vocab"]):
        left, right = drawn.choice(pieces), drawn.choice(pieces)
        if len(left + right) <= 12 and left + right not in vocab:
            vocab[left + right] = len(vocab)
            pieces.append(left + right)
            pairs["merges"].append([left, right])
    pairs["vocab"] = vocab
    file.write_text(json.dumps(tokenizer))
    return path


def prefilling(tokens: int) -> Work:
    """A long prompt, never the same."""

    async def prefill(server: Worker) -> None:
        text = f"{time.perf_counter()} ".ljust(tokens, "x")
        await server.stream(pb.PredictOptions(Prompt=text, Tokens=1, IgnoreEOS=True, PromptCacheRO=True))

    return prefill


async def full_batch(server: Worker) -> None:
    """With the neighbour, as many streams as run together by default."""
    requests = [pb.PredictOptions(Prompt=f"{index}", Tokens=64, IgnoreEOS=True, Temperature=1) for index in range(31)]
    await asyncio.gather(*(server.stream(request) for request in requests))


async def encoding(server: Worker) -> None:
    """A text of 1 MB to token ids, raw and as a message."""
    await server.stub.TokenizeString(pb.PredictOptions(Prompt=MEGABYTE))
    await server.stub.TokenizeString(pb.PredictOptions(Messages=[pb.Message(role="user", content=MEGABYTE)]))


def large(request: bytes) -> Work:
    """A request that is answered or refused."""

    async def ask_for(server: Worker) -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await channel.unary_unary("/backend.Backend/Predict")(request)

    return ask_for


def conversation(count: int, content: str) -> pb.PredictOptions:
    """So many equal messages."""
    messages = [pb.Message(role="user", content=content)] * count
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=1)


def requests() -> dict[str, bytes]:
    """Requests that are the worst of their kind, by name."""
    empty = conversation(1, "").SerializeToString()
    third = MAX_TEXT_BYTES // 3 - 16
    logprobs = pb.PredictOptions(Prompt="a", Tokens=1000, IgnoreEOS=True, TopLogprobs=20)
    return {
        "50 MiB": pb.PredictOptions(Prompt="a" * (50 << 20)).SerializeToString(),
        "12 MiB of empty messages": empty * (MAX_REQUEST_BYTES // len(empty)),
        "8,192 messages": conversation(MAX_MESSAGES, "a").SerializeToString(),
        "8 MiB of words": pb.PredictOptions(Prompt=MEGABYTE * 8).SerializeToString(),
        "8 MiB of snow": conversation(1, "\u2603" * third).SerializeToString(),
        "8 MiB of line ends": conversation(1, "x\n\n" * third).SerializeToString(),
        "1,000 x 20 logprobs": logprobs.SerializeToString(),
    }


def start_seconds() -> float:
    """From exec to the first OK, on a port that is asked every millisecond."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    started = time.perf_counter()
    process = subprocess.Popen(
        [ROOT / "run.sh", "--addr", f"{host}:{port}", "--log-level", "error"],
        env={"MLX_WORKER_PYTHON": sys.executable, **os.environ},
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with socket.socket() as attempt:
                if attempt.connect_ex((host, port)) == 0:
                    break
            time.sleep(0.001)
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            assert rpc.BackendStub(channel).Health(pb.HealthMessage(), timeout=10).message == b"OK"
        return time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(30)


def share(values: list[float], part: float) -> float:
    """The value that this part of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def measure(options: argparse.Namespace) -> dict[str, Row]:
    """What the worker did, and what others saw of it."""
    path = model("plain-32000-512", vocab=32_000, hidden=512, layers=8)
    rows: dict[str, Row] = {}
    async with worker() as server:
        rows["before a load"] = await while_busy(server, nothing, options)
        rows["loading"] = await while_busy(server, loading(path), options)
        large_vocabulary = with_merges(model("plain-150000-32", vocab=150_000, hidden=32, layers=1))
        rows["loading, 150,000 tokens"] = await while_busy(server, loading(large_vocabulary), options)
        await server.load(path)
        chunks = await two_chunks(server)
        prefill = prefilling(options.prompt)
        rows[f"{options.prompt}-token prefill"] = await while_busy(server, prefill, options, chunks)
        rows["32 rows decoding"] = await while_busy(server, full_batch, options, chunks)
        await server.load(TINY_CHAT)
        chunks = await two_chunks(server)
        rows["encoding 1 MB"] = await while_busy(server, encoding, options, chunks)
        for name, request in requests().items():
            rows[name] = await while_busy(server, large(request), options, chunks)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each kind of work")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--single", type=int, default=10, help="times that each work is done by itself")
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the prompts that are prefilled")
    options = parse(parser, seconds=1.0, starts=2, single=2, prompt=1024)
    starts = [start_seconds() * 1e3 for _ in range(options.starts)]
    rows = {"exec to first OK": Row(starts), **asyncio.run(measure(options))}
    columns = ["p50", "p99", "worst", "p99 beside a stream", "p99 during one", "its gap", "two chunks", "MiB left"]
    headings = ["Health in ms while", "asked", *columns]
    Report(options).table(headings, [[name, *row.cells()] for name, row in rows.items()])


if __name__ == "__main__":
    main()
