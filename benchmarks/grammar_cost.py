"""What grammars cost the worker: tokens a second of 8 streams of which 0, 1, 4 and 8 are held to a JSON schema.

    python -m benchmarks.grammar_cost [--vocab 32000] [--hidden 256] [--layers 4] [--tokens 128] [--rounds 15]

One worker, one model, the four cases in random turns within each round, so that other load hits all alike; what is
told is the median over the rounds of each case's share of its own round's unconstrained case, and the best rate of
each case. Everything samples at temperature 1. The schema is an array of objects with strings and numbers that
cannot end within the budget. With OpenBLAS on two cores the default model takes about 10 ms a step at 8 rows.
"""

import argparse
import asyncio
import json
import random
import statistics
import time

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import Worker, model, worker

STREAMS = 8
CASES = (0, 1, 4, 8)
ENDLESS = json.dumps(
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
)


def request(index: int, salt: int, tokens: int, *, held: bool) -> pb.PredictOptions:
    """One stream; its prompt shares no beginning with any other."""
    text = f"{salt:04d}{index:04d}".ljust(64, "x")
    options = pb.PredictOptions(Prompt=text, Tokens=tokens, Temperature=1.0, Seed=salt * STREAMS + index)
    if held:
        options.Metadata["json_schema"] = ENDLESS
    else:
        options.IgnoreEOS = True
    return options


async def rate(server: Worker, salt: int, tokens: int, held: int) -> tuple[float, float]:
    """Tokens a second of one turn, and milliseconds of the worker's CPU time a token."""
    spent, started = server.cpu_seconds(), time.perf_counter()
    lines = await asyncio.gather(
        *(server.stream(request(index, salt, tokens, held=index < held)) for index in range(STREAMS))
    )
    seconds, spent = time.perf_counter() - started, server.cpu_seconds() - spent
    assert all(line.tokens == tokens for line in lines), [line.tokens for line in lines]
    assert all(line.text.lstrip().startswith("[") for line in lines[:held])
    return STREAMS * tokens / seconds, 1e3 * spent / (STREAMS * tokens)


async def measure(options: argparse.Namespace) -> None:
    """Run all rounds and report."""
    name = f"plain-{options.vocab}-{options.hidden}-{options.layers}"
    path = model(name, vocab=options.vocab, hidden=options.hidden, layers=options.layers)
    rates: dict[int, list[float]] = {held: [] for held in CASES}
    cpu: dict[int, list[float]] = {held: [] for held in CASES}
    async with worker(threads=options.threads) as server:
        await server.load(path, "prompt_cache_size:0")
        blas = await server.blas()
        for round_ in range(options.rounds + 1):
            for held in random.Random(round_).sample(CASES, len(CASES)):
                tokens_a_second, milliseconds = await rate(server, round_ * 10 + held, options.tokens, held)
                if round_:  # the first warms everything up
                    rates[held].append(tokens_a_second)
                    cpu[held].append(milliseconds)
    rows: list[list[object]] = []
    for held in CASES:
        shares = [mine / base for mine, base in zip(rates[held], rates[0], strict=True)]
        median = statistics.median(rates[held])
        share = f"{statistics.median(shares):.1%}"
        rows.append([held, median, 1e3 * STREAMS / median, share, max(rates[held]), statistics.median(cpu[held])])
    report = Report(options)
    size = f"vocabulary {options.vocab}, width {options.hidden}, {options.layers} layers"
    report.note(f"{STREAMS} streams, {size}, {options.tokens} tokens each, {options.rounds} rounds, BLAS {blas}")
    report.table(["constrained", "tokens/s", "ms/step", "of unconstrained", "best tokens/s", "CPU ms/token"], rows)


def main() -> None:
    parser = arguments(__doc__)
    for name, default in (("vocab", 32_000), ("hidden", 256), ("layers", 4), ("tokens", 128), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, help="of the BLAS; default: all cores")
    asyncio.run(measure(parse(parser, tokens=32, rounds=1)))


if __name__ == "__main__":
    main()
