"""Time to the first token of a long prompt: cold, from the prompt cache in memory, from its directory after a restart.

    python -m benchmarks.restart [--tokens 4096] [--suffix 16] [--rounds 5]

A model of some 57 million parameters. Each round has a directory of its own: a worker reads a prefix with one suffix,
then again with others, from memory; another worker on the same directory then reads it with the same ones. Each prompt
comes to a worker that has nothing of it, too. One byte is one token.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import Report, arguments, parse
from benchmarks.serving import MODELS, Timeline, Worker, model, worker
from benchmarks.ttft import raw, text


async def asked(server: Worker, prefix: str, salt: str, suffix: int) -> Timeline:
    """One first token."""
    return await server.stream(raw(prefix + text(salt, suffix)))


async def one_round(
    path: Path, directory: Path, number: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Seconds cold, from memory, and from the disk."""
    prefix, kept = text(f"prefix{number}", options.tokens), ("--prompt-cache-dir", str(directory))
    async with worker(*kept) as old:
        await old.load(path)
        await asked(old, text("warm", 64), "0", options.suffix)
        cold = await asked(old, prefix, "0", options.suffix)
        memory = await asked(old, prefix, "1", options.suffix)
        assert memory.cached_tokens == options.tokens, memory
    async with worker(*kept) as new:
        await new.load(path)
        # Of another beginning, so that what a first read costs the process is not in the figure.
        await asked(new, text("warm", 64), "0", options.suffix)
        disk = await asked(new, prefix, "2", options.suffix)
        assert disk.cached_tokens == options.tokens, disk
    return cold.first, memory.first, disk.first


async def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    report = Report(options)
    path = model("restart", hidden=768)
    times: list[tuple[float, float, float]] = []
    for number in range(options.rounds):
        directory = Path(tempfile.mkdtemp(dir=MODELS))
        try:
            times.append(await one_round(path, directory, number, options))
        finally:
            shutil.rmtree(directory)
    cold, memory, disk = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    report.note(f"medians of {options.rounds}; prefix of {options.tokens} tokens, then {options.suffix} others")
    report.table(
        ["prefix", "cold ms", "memory ms", "disk after a restart ms", "disk / memory", "cold / disk"],
        [[options.tokens, cold, memory, disk, disk / memory, cold / disk]],
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--suffix", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(measure(parse(parser, tokens=1024, rounds=1)))


if __name__ == "__main__":
    main()
