"""Grammars on a real engine: what constrained rows cost, and whether random schemas hold.

    python -m benchmarks.grammar cost [--vocab 32000] [--layers 2] [--hidden 512] [--tokens 64] [--rounds 5]
    python -m benchmarks.grammar schemas [--count 500] [--budget 700]

`cost`: tokens a second of 8 streams of which 0, 1, 4 and 8 are held to a JSON schema (an array of objects with
strings and numbers that cannot end within the budget), in random turns within one process; temperature 1. Other load
on the machine hits the median; the best of the rounds is nearer to what the code costs.

`schemas`: random schemas of growing depth, bounded and without flexible white space, on a random-weight model at
temperature 1. Every finished answer is validated with `jsonschema`; every answer, finished or cut by its budget,
must be the beginning of JSON to an acceptor that shares nothing with llguidance. One in ten schemas has a keyword
that llguidance does not support, and must be refused with its name.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.core.errors import InvalidRequest, WorkerError
from backend.core.events import Failed, Finished, FinishReason
from backend.core.request import GenerationRequest, Grammar, Sampling
from backend.engine.handle import EngineHandle
from backend.engine.loading.blas import load_blas
from tests.grammar.json_prefix import is_json_prefix
from tests.grammar.schemas import random_schema, unsupported_schema
from tests.models import plain_kv_model, write_model

STREAMS = 8
CONSTRAINED = (0, 1, 4, 8)
ENDLESS = Grammar(
    kind="json_schema",
    text=json.dumps(
        {
            "type": "array",
            "minItems": 10_000,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "size": {"type": "number"}},
                "required": ["name", "size"],
                "additionalProperties": False,
            },
        }
    ),
)


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def with_engine(path: Path, body: Callable[[EngineHandle], Awaitable[None]]) -> None:
    engine = EngineHandle()
    engine.start()
    try:
        config = ModelConfig(
            identity=path.name,
            candidates=(str(path),),
            engine=EngineConfig(max_rows=STREAMS),
            cache=CacheConfig(max_sequences=0),
        )
        await engine.load(config)
        await body(engine)
    finally:
        await engine.close()


async def answer(engine: EngineHandle, request: GenerationRequest) -> tuple[str, Finished | WorkerError]:
    """The text, and how it ended."""
    try:
        stream = await engine.submit(request)
    except WorkerError as error:
        return "", error
    text = ""
    async for event in stream:
        if isinstance(event, Failed):
            return text, event.error
        text += event.piece.content
        if isinstance(event, Finished):
            return text, event
    raise AssertionError("a stream ended without its terminal event")


def request(number: int, tokens: int, grammar: Grammar | None, *, ignore_eos: bool) -> GenerationRequest:
    return GenerationRequest(
        request_id=str(number),
        prompt=f"{number} a prompt of some length, so that there is something to attend to",
        max_tokens=tokens,
        sampling=Sampling(temperature=1.0, seed=number, ignore_eos=ignore_eos),
        grammar=grammar,
    )


async def round_of(engine: EngineHandle, tokens: int, constrained: int) -> float:
    """Tokens a second of one round."""
    requests = [
        request(n, tokens, ENDLESS if n < constrained else None, ignore_eos=n >= constrained) for n in range(STREAMS)
    ]
    started = time.perf_counter()
    ends = await asyncio.gather(*(answer(engine, one) for one in requests))
    seconds = time.perf_counter() - started
    total = 0
    for _, end in ends:
        assert isinstance(end, Finished), end
        total += end.usage.completion_tokens
    return total / seconds


async def cost(options: argparse.Namespace) -> None:
    async def body(engine: EngineHandle) -> None:
        rates: dict[int, list[float]] = {k: [] for k in CONSTRAINED}
        for number in range(options.rounds + 1):
            for k in random.Random(number).sample(CONSTRAINED, len(CONSTRAINED)):
                rate = await round_of(engine, options.tokens, k)
                if number:  # the first round warms up
                    rates[k].append(rate)
        blas = engine.info().blas
        write(f"blas {blas}, vocab {options.vocab}, {STREAMS} streams x {options.tokens} tokens, median (best)")
        for k in CONSTRAINED:
            median, best = statistics.median(rates[k]), max(rates[k])
            share = f"{median / statistics.median(rates[0]):6.1%} ({best / max(rates[0]):6.1%})"
            write(f"  {k} held: {median:7.1f} ({best:7.1f}) tokens/s, {STREAMS / best * 1e3:.2f} ms a step, {share}")

    with tempfile.TemporaryDirectory() as folder:
        path = plain_kv_model(Path(folder) / "m", vocab=options.vocab, hidden=options.hidden, layers=options.layers)
        await with_engine(path, body)


def checked(text: str, end: Finished | WorkerError, schema: dict[str, Any], keyword: str) -> str:
    """What became of one schema, in a word or two; `wrong` begins what must not be."""
    if keyword:
        return "refused by name" if isinstance(end, InvalidRequest) and keyword in end.message else "wrong: not refused"
    if isinstance(end, InvalidRequest):
        return f"refused: {end.message}"
    if not isinstance(end, Finished):
        return f"wrong: {end}"
    if not is_json_prefix(text):
        return "wrong: not JSON so far"
    if end.reason is FinishReason.LENGTH:
        return "cut by its budget, JSON so far"
    try:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"wrong: {str(error).splitlines()[0][:80]}"
    return "finished and valid"


async def schemas(options: argparse.Namespace) -> None:
    found: Counter[str] = Counter()

    async def one(engine: EngineHandle, number: int, gate: asyncio.Semaphore) -> None:
        rng = random.Random(number)
        depth, keyword = number * 6 // options.count, ""
        schema = random_schema(rng, depth)
        if number % 10 == 9:
            schema, keyword = unsupported_schema(rng, depth)
        grammar = Grammar(kind="json_schema", text=json.dumps(schema))
        async with gate:
            text, end = await answer(engine, request(number, options.budget, grammar, ignore_eos=False))
        result = checked(text, end, schema, keyword)
        found[result] += 1
        if result.startswith("wrong"):
            write(f"schema {number}: {result}\n  {json.dumps(schema)}\n  {text!r}")

    async def body(engine: EngineHandle) -> None:
        gate = asyncio.Semaphore(STREAMS)
        started = time.perf_counter()
        await asyncio.gather(*(one(engine, number, gate) for number in range(options.count)))
        write(f"blas {engine.info().blas}, {options.count} schemas in {time.perf_counter() - started:.0f} s")
        for result, count in found.most_common():
            write(f"  {count:4d} {result}")

    with tempfile.TemporaryDirectory() as folder:
        await with_engine(write_model(Path(folder) / "m"), body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Grammars on a real engine.")
    commands = parser.add_subparsers(required=True)
    costs = commands.add_parser("cost")
    for name, default in (("vocab", 32_000), ("layers", 2), ("hidden", 512), ("tokens", 64), ("rounds", 5)):
        costs.add_argument(f"--{name}", type=int, default=default)
    costs.set_defaults(run=cost)
    random_schemas = commands.add_parser("schemas")
    random_schemas.add_argument("--count", type=int, default=500)
    random_schemas.add_argument("--budget", type=int, default=700)
    random_schemas.set_defaults(run=schemas)
    options = parser.parse_args()
    load_blas()  # before the models are written, which imports MLX
    asyncio.run(options.run(options))


if __name__ == "__main__":
    main()
