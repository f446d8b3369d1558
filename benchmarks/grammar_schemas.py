"""Whether answers hold random JSON schemas: of growing depth, on a random-weight model at temperature 1.

    python -m benchmarks.grammar_schemas [--count 500] [--budget 700]

Schemas are bounded and without flexible white space. Every finished answer is validated with `jsonschema`; every
answer, finished or cut by its budget, must be the beginning of JSON to an acceptor that shares nothing with
llguidance. One in ten schemas has a keyword that llguidance does not support, and must be refused with its name.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import jsonschema

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import MODELS, ROOT, Timeline, Worker, worker
from tests.grammar.json_prefix import is_json_prefix
from tests.grammar.schemas import random_schema, unsupported_schema

STREAMS = 8


def small_model() -> Path:
    """The tests' smallest, written at the first use by a process of its own."""
    path = MODELS / "small"
    if not (path / "tokenizer_config.json").exists():
        code = f"from pathlib import Path; from tests.models import write_model; write_model(Path({str(path)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return path


def request(number: int, schema: dict[str, Any], budget: int) -> pb.PredictOptions:
    """One answer from its own seed."""
    prompt = f"{number} a prompt of some length, so that there is something to attend to"
    options = pb.PredictOptions(Prompt=prompt, Tokens=budget, Temperature=1.0, Seed=number)
    options.Metadata["json_schema"] = json.dumps(schema)
    return options


def checked(line: Timeline, schema: dict[str, Any], budget: int) -> str:
    """What became of an answer, in a few words; `wrong` begins what must not be."""
    if not is_json_prefix(line.text):
        return "wrong: not JSON so far"
    if line.tokens == budget:
        return "cut by its budget, JSON so far"
    try:
        jsonschema.validate(json.loads(line.text), schema, jsonschema.Draft202012Validator)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"wrong: {str(error).splitlines()[0][:80]}"
    return "finished and valid"


async def outcome(server: Worker, number: int, options: argparse.Namespace) -> str:
    """What became of one schema."""
    rng = random.Random(number)
    depth, keyword = number * 6 // options.count, ""
    schema = random_schema(rng, depth)
    if number % 10 == 9:
        schema, keyword = unsupported_schema(rng, depth)
    try:
        line = await server.stream(request(number, schema, options.budget))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            return f"wrong: {error.code().name} {error.details()}"
        named = bool(keyword) and keyword in (error.details() or "")
        return "refused by name" if named else f"refused: {error.details()}"
    return "wrong: not refused" if keyword else checked(line, schema, options.budget)


async def measure(options: argparse.Namespace) -> None:
    room, report = asyncio.Semaphore(STREAMS), Report(options)

    async def one(server: Worker, number: int) -> str:
        async with room:
            found = await outcome(server, number, options)
        if found.startswith("wrong"):
            report.note(f"schema {number}: {found}")
        return found

    async with worker() as server:
        await server.load(small_model(), "prompt_cache_size:0")
        started = time.perf_counter()
        found = Counter(await asyncio.gather(*(one(server, number) for number in range(options.count))))
    report.note(f"{options.count} schemas in {time.perf_counter() - started:.0f} s")
    report.table(["outcome", "schemas"], found.most_common())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--budget", type=int, default=700)
    asyncio.run(measure(parse(parser, count=30, budget=150)))


if __name__ == "__main__":
    main()
