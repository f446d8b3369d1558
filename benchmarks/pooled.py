"""Texts embedded a second, together and one at a time; and what 50 documents behind one query prefill.

    python -m benchmarks.pooled [--texts 1000] [--each 250] [--clients 48] [--documents 50] [--streams 8]

Texts are short, medium, long, or of mixed lengths, as many short ones as long ones on a logarithmic scale; one byte is
one token. The same worker embeds them one at a time, then asked by many clients at once, in turns of a quarter of them,
so that other load hits both alike. What the machine allows is beside it: passes of the model alone, without a worker,
over as many tokens as a text of each kind has, and over a full batch, in tokens a second. Where the two are near each
other, no batch can help; padding would come on top.

Then streams beside texts, documents and candidates without end: the gaps between two pieces of a stream, against a
decode step of the streams by themselves and two prefill chunks, a chunk being what a text of that many tokens takes by
itself; and whether they said what they say alone. The documents share a query; what they prefill is counted by the
worker and held against the tokens that are distinct.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import ROOT, Worker, model, worker

MIXED = (4, 512)
CLASSES = ((8, 32), (64, 128), (256, 512))
BATCH_TOKENS = 512
"""Of a batch on a CPU, at most: a prefill chunk."""
TURNS = 4


def texts(count: int, seed: int, lengths_of: tuple[int, int] = MIXED) -> list[str]:
    """Texts whose lengths spread evenly over their logarithms."""
    draw, (least, most) = random.Random(seed), lengths_of
    lengths = [round(least * (most / least) ** draw.random()) for _ in range(count)]
    return [
        f"{index} bridges and rivers, {draw.random()} ".ljust(most, "x")[:length]
        for index, length in enumerate(lengths)
    ]


def patched(path: Path) -> Path:
    """The model with `yes` and `no` among its tokens."""
    from tests.straight import with_yes_and_no

    return with_yes_and_no(path)


async def embed(server: Worker, text: str) -> None:
    """One text."""
    result = await server.stub.Embedding(pb.PredictOptions(Embeddings=text))
    assert result.prompt_tokens == len(text)


async def together(server: Worker, wanted: list[str], clients: int) -> float:
    """Seconds for all, asked by so many clients at once."""
    left = iter(wanted)

    async def client() -> None:
        for text in left:
            await embed(server, text)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started


async def rates(server: Worker, options: argparse.Namespace) -> list[list[object]]:
    """Texts a second for each range of lengths, one at a time and together."""
    rows: list[list[object]] = []
    for least, most in (MIXED, *CLASSES):
        wanted = texts(options.texts if (least, most) == MIXED else options.each, most, (least, most))
        seconds = [0.0, 0.0]
        part = -(-len(wanted) // TURNS)
        for start in range(0, len(wanted), part):
            some = wanted[start : start + part]
            seconds[0] += await together(server, some, 1)
            seconds[1] += await together(server, some, options.clients)
        alone, company = (len(wanted) / s for s in seconds)
        tokens = sum(map(len, wanted)) / len(wanted)
        rows.append([f"{least} to {most}", len(wanted), tokens, alone, company, company / alone])
    return rows


def machine_rates(path: Path, rounds: int) -> list[list[object]]:
    """Tokens a second of passes over one text of each kind, and over a batch of such texts; the quickest of some."""
    # In a process of its own: MLX's threads would share the cores with what is measured here.
    code = "import json, sys; from pathlib import Path; from benchmarks.pooled import pass_rates; "
    code += f"print(json.dumps(pass_rates(Path({str(path)!r}), {rounds})))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def pass_rates(path: Path, rounds: int) -> list[list[object]]:
    """What `machine_rates` tells; imports MLX."""
    from backend.engine.loading.blas import load_blas

    load_blas()
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model: Any = load_model(path)[0]
    rows: list[list[object]] = []
    for least, most in CLASSES:
        length = round((least * most) ** 0.5)
        best: list[float] = []
        for count in (1, max(1, BATCH_TOKENS // length)):
            tokens, seconds = mx.zeros((count, length), mx.int32), list[float]()
            for _ in range(rounds):
                started = time.perf_counter()
                mx.eval(model.model(tokens))
                seconds.append(time.perf_counter() - started)
            best.append(count * length / min(seconds))
        rows.append([f"{least} to {most}", length, *best, best[1] / best[0]])
    return rows


async def without_end(work: Callable[[], Awaitable[Any]]) -> None:
    """The same work again and again, until it is cancelled."""
    while True:
        await work()


async def chunk_seconds(server: Worker) -> float:
    """What a text of a whole prefill chunk takes by itself; the median of some."""
    taken: list[float] = []
    for index in range(7):
        started = time.perf_counter()
        await embed(server, f"{index} chunk ".ljust(BATCH_TOKENS, "x"))
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def beside_streams(server: Worker, options: argparse.Namespace) -> list[list[object]]:
    """Streams by themselves, and beside each kind of such requests without end; and whether they said the same."""
    wanted, found = texts(options.texts, 2), texts(options.documents, 3)
    scored = pb.ScoreRequest(prompt="Which of these follows? ".ljust(400, "x"), candidates=found[:8])
    work: dict[str, Callable[[], Awaitable[object]] | None] = {
        "alone": None,
        f"texts of {options.clients} clients": lambda: together(server, wanted, options.clients),
        f"{options.documents} documents": lambda: server.stub.Rerank(pb.RerankRequest(query="Old?", documents=found)),
        "8 candidates": lambda: server.stub.Score(scored),
    }
    asked = [
        pb.PredictOptions(Prompt=f"stream {seed}", Tokens=options.tokens, IgnoreEOS=True, Seed=seed, Temperature=0.8)
        for seed in range(options.streams)
    ]
    chunk, step, expected, rows = 1e3 * await chunk_seconds(server), 0.0, list[str](), list[list[object]]()
    for name, kind in work.items():
        beside = asyncio.create_task(without_end(kind)) if kind else None
        started = time.perf_counter()
        lines = await asyncio.gather(*map(server.stream, asked))
        seconds = time.perf_counter() - started
        if beside is not None:
            beside.cancel()
            await asyncio.wait([beside])
        gaps = [1e3 * (b - a) for line in lines for a, b in pairwise(line.arrivals)]
        answers = [line.text for line in lines]
        step, expected = step or statistics.median(gaps), expected or answers
        rate = sum(line.tokens for line in lines) / seconds
        p99 = statistics.quantiles(gaps, n=100)[-1]
        bound = step + 2 * chunk
        rows.append(
            [name, rate, statistics.median(gaps), p99, max(gaps), bound, max(gaps) / bound, answers == expected]
        )
    return rows


async def at_rest(server: Worker) -> dict[str, float]:
    """The queue's figures once nothing runs."""
    while (queue := await server.queue())["in_flight"]:  # noqa: ASYNC110  only the worker knows
        await asyncio.sleep(0.01)
    return queue


async def documents(server: Worker, count: int) -> list[list[object]]:
    """What a Rerank prefills, against what is distinct in it."""
    query = "Which of the bridges over the river is the oldest one?"
    found = [f"{index}. {text}" for index, text in enumerate(texts(count, 3))]
    before = (await at_rest(server))["prefilled_tokens"]
    started = time.perf_counter()
    result = await server.stub.Rerank(pb.RerankRequest(query=query, documents=found))
    seconds = time.perf_counter() - started
    ran = (await at_rest(server))["prefilled_tokens"] - before
    one = await server.stub.Rerank(pb.RerankRequest(query=query, documents=found[:1]))
    whole = one.usage.prompt_tokens
    # What each document's prompt has beside the document is the same in all; what is after it cannot be shared.
    closing = len("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n") - sum(
        len(marker) - 1 for marker in ("<|im_end|>", "<|im_start|>", "<think>", "</think>")
    )
    prefix = whole - len(found[0]) - closing
    distinct = prefix + sum(len(document) + closing for document in found)
    return [[count, result.usage.prompt_tokens, distinct, ran, ran / distinct, seconds]]


async def measure(options: argparse.Namespace) -> None:
    report = Report(options)
    size = {"vocab": 32_000, "hidden": options.hidden, "layers": options.layers}
    path = patched(model("-".join(["pooled", *map(str, size.values())]), **size))
    async with worker() as server:
        await server.load(path)
        await together(server, texts(20, 0), 8)  # the first requests of a process pay for what is made at first use
        blas = await server.blas()
        report.note(
            f"vocabulary 32000, width {options.hidden}, {options.layers} layers, BLAS {blas}, {options.clients} clients"
        )
        if options.only in (None, "texts"):
            headings = ["tokens", "texts", "mean", "one at a time /s", "together /s", "ratio"]
            report.table(headings, await rates(server, options))
        if options.only in (None, "streams"):
            gaps = ["gap p50 ms", "p99", "longest", "a step and two chunks", "longest / that", "same answers"]
            headings = [f"{options.streams} streams beside", "tokens/s", *gaps]
            report.table(headings, await beside_streams(server, options))
        if options.only in (None, "documents"):
            headings = ["documents", "tokens in all", "distinct", "prefilled", "prefilled / distinct", "s"]
            report.table(headings, await documents(server, options.documents))
    if options.only in (None, "texts"):
        headings = ["the model alone", "tokens of a text", "one text, tokens/s", "a full batch, tokens/s", "ratio"]
        report.table(headings, machine_rates(path, options.rounds))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--each", type=int, default=250, help="texts of each range of lengths by itself")
    parser.add_argument("--rounds", type=int, default=20, help="passes of the model alone, of each kind")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--only", choices=["texts", "streams", "documents"])
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=512)
    asyncio.run(measure(parse(parser, texts=40, each=10, rounds=2, documents=6, streams=2, tokens=20, hidden=128)))


if __name__ == "__main__":
    main()
