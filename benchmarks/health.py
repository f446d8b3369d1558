"""How long Health takes while the worker is busy, and how long a worker takes from exec to its first OK.

    python -m benchmarks.health [--seconds 6] [--starts 10]

A process of its own asks every 5 ms, and counts from when it meant to ask, so that a stall of the worker shows in
every question that fell into it. The model is a Llama of 51 million random parameters, except for texts and large
requests, which tiny-chat takes (byte pairs): a row each for requests that are the worst of their kind, repeated.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, Worker, model, worker

EVERY_SECONDS = 0.005
TINY_CHAT = ROOT / "examples" / "tiny-chat" / "model"
MEGABYTE = "word and " * (1_000_000 // 9)
Work = Callable[[Worker], Awaitable[None]]


def ask(address: str) -> None:
    """The asking process: until its input ends; prints the milliseconds of every answer as JSON."""
    took: list[float] = []
    with grpc.insecure_channel(address) as channel:
        stub = rpc.BackendStub(channel)
        stub.Health(pb.HealthMessage(), wait_for_ready=True)
        print("asking", flush=True)
        over = asyncio.new_event_loop()
        ended = over.run_in_executor(None, sys.stdin.read)
        due = time.perf_counter()
        while not ended.done():
            over.run_until_complete(asyncio.sleep(max(0.0, due - time.perf_counter())))
            stub.Health(pb.HealthMessage())
            took.append((time.perf_counter() - due) * 1e3)
            due += EVERY_SECONDS
    print(json.dumps(took))


async def while_busy(server: Worker, work: Work, seconds: float) -> list[float]:
    """Milliseconds of Health while `work` is done again and again, for `seconds` at least."""
    command = [sys.executable, "-m", "benchmarks.health", "--ask", server.address]
    asking = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26
    )
    assert asking.stdout is not None
    await asking.stdout.readline()
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        await work(server)
    output, _ = await asking.communicate(b"")
    return json.loads(output)


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


def prefilling(tokens: int) -> Work:
    """A long prompt, never the same."""

    async def prefill(server: Worker) -> None:
        text = f"{time.perf_counter()} ".ljust(tokens, "x")
        await server.stream(pb.PredictOptions(Prompt=text, Tokens=1, IgnoreEOS=True, PromptCacheRO=True))

    return prefill


async def full_batch(server: Worker) -> None:
    """As many streams as run together by default."""
    requests = [pb.PredictOptions(Prompt=f"{index}", Tokens=64, IgnoreEOS=True, Temperature=1) for index in range(32)]
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
    logprobs = pb.PredictOptions(Prompt="a", Tokens=1000, IgnoreEOS=True, TopLogprobs=20)
    return {
        "50 MiB": pb.PredictOptions(Prompt="a" * (50 << 20)).SerializeToString(),
        "24 MiB of empty messages": empty * ((24 << 20) // len(empty)),
        "16,384 messages": conversation(16_384, "a").SerializeToString(),
        "16 MiB of words": pb.PredictOptions(Prompt=MEGABYTE * 16).SerializeToString(),
        "15 MiB of snow": conversation(1, "\u2603" * (5 << 20)).SerializeToString(),
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


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of every Health, by what the worker did meanwhile."""
    path = model("plain-32000-512", vocab=32_000, hidden=512, layers=8)
    took: dict[str, list[float]] = {}
    async with worker() as server:
        took["before a load"] = await while_busy(server, nothing, 1)
        took["loading"] = await while_busy(server, loading(path), options.seconds)
        await server.load(path)
        took[f"{options.prompt}-token prefill"] = await while_busy(server, prefilling(options.prompt), options.seconds)
        took["32 rows decoding"] = await while_busy(server, full_batch, options.seconds)
        await server.load(TINY_CHAT)
        took["encoding 1 MB"] = await while_busy(server, encoding, options.seconds)
        for name, request in requests().items():
            took[name] = await while_busy(server, large(request), options.seconds)
    return took


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each kind of work")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the prompts that are prefilled")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    options = parse(parser, seconds=1.0, starts=2, prompt=1024)
    if options.ask:
        ask(options.ask)
        return
    starts = [start_seconds() * 1e3 for _ in range(options.starts)]
    took = asyncio.run(measure(options))
    figures = {"exec to first OK": starts, **took}
    rows = [[name, len(ms), share(ms, 0.5), share(ms, 0.99), max(ms)] for name, ms in figures.items()]
    Report(options).table(["Health in ms while", "asked", "p50", "p99", "worst"], rows)


if __name__ == "__main__":
    main()
