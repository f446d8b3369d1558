"""What the isolation modes cost: tokens a second of streams at once, and the time to a first token.

    python -m benchmarks.isolation [--streams 8] [--tokens 48] [--prefix 2048] [--rounds 3]

One worker; in each round the modes take turns, each with a load of its own, so that other load hits all alike. All
streams are of one tenant and begin with one prefix: under `performance` and `balanced` the first has it prefilled for
all; under `strict` each request has the machine to itself and prefills everything, in smaller chunks, unless the prefix
was given a name. First tokens are of single requests: of a prompt nobody had, and of the shared prefix once cached.
One byte is one token.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import Worker, model, worker
from benchmarks.ttft import raw, text

MODES = ("performance", "balanced", "strict", "strict, named")
TENANT = {"cache_salt": "one"}


def request(prompt: str, tokens: int) -> pb.PredictOptions:
    """An answer of exactly so many tokens."""
    return pb.PredictOptions(Prompt=prompt, Tokens=tokens, IgnoreEOS=True, Metadata=TENANT)


async def one_mode(server: Worker, path: Path, mode: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Tokens a second, seconds to a cold first token, seconds to one behind the shared prefix."""
    await server.stub.Free(pb.HealthMessage())
    await server.load(path, f"isolation:{mode.split(',')[0]}")
    await server.stream(raw("warm"))
    prefix = text("shared", options.prefix)
    if mode.endswith("named"):
        names = rpc.PromptCacheStub(server.channel)
        await names.Create(pb.CreatePrefixRequest(name="shared", prompt=prefix, metadata=TENANT))
    started = time.perf_counter()
    prompts = [prefix + text(f"{index}", 32) for index in range(options.streams)]
    lines = await asyncio.gather(*(server.stream(request(prompt, options.tokens)) for prompt in prompts))
    rate = sum(line.tokens for line in lines) / (time.perf_counter() - started)
    cold = await server.stream(request(text("nobody", options.prefix), 1))
    shared = await server.stream(request(prefix + text("again", 32), 1))
    return rate, cold.first, shared.first


async def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    report = Report(options)
    path = model("isolation")
    found: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
    async with worker() as server:
        for _ in range(options.rounds):
            for mode in MODES:
                found[mode].append(await one_mode(server, path, mode, options))
    medians = {
        mode: [statistics.median(column) for column in zip(*times, strict=True)] for mode, times in found.items()
    }
    base = medians["performance"]
    report.note(
        f"medians of {options.rounds}; {options.streams} streams of {options.tokens} tokens, {options.prefix} shared"
    )
    report.table(
        ["mode", "tokens/s", "of performance", "cold first token ms", "first token behind the prefix ms"],
        [[mode, rate, rate / base[0], 1e3 * cold, 1e3 * shared] for mode, (rate, cold, shared) in medians.items()],
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prefix", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(measure(parse(parser, streams=2, tokens=8, prefix=512, rounds=1)))


if __name__ == "__main__":
    main()
