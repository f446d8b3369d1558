"""Time to the first token of a prompt whose beginning has been seen before.

    python -m benchmarks.ttft [--prefixes 1024 2048 4096] [--suffix 16] [--messages 3 6 12] [--rounds 5]

Each prompt is a prefix that an earlier request had and a suffix of its own; the same goes to the same worker with
the prompt cache turned off. Then conversations whose messages have about 200 tokens each: a follow-up has to prefill
only what is new, so total over new tokens bounds its gain; late tokens attend to more than early ones, so a narrow
model, where attention weighs most, stays further below it. Every figure is a median over rounds; with and without
the cache take turns, one worker each, so that other load hits both alike. One byte is one token.
"""

import argparse
import asyncio
import statistics
from typing import Any

from backend.pb import backend_pb2 as pb
from benchmarks.report import Report, arguments, parse
from benchmarks.serving import Timeline, Worker, model, worker

MESSAGE_BYTES = 200


def text(salt: str, length: int) -> str:
    """A text of exactly `length` bytes that shares no beginning with that of another salt."""
    words = f"{salt} " + " ".join(f"{salt[-1]}{index}" for index in range(length))
    return words[:length]


def raw(prompt: str) -> pb.PredictOptions:
    """One token after a prompt."""
    return pb.PredictOptions(Prompt=prompt, Tokens=1, IgnoreEOS=True)


def chat(messages: list[pb.Message], tokens: int = 1, **fields: Any) -> pb.PredictOptions:
    """An answer to a conversation."""
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, IgnoreEOS=True, Tokens=tokens, **fields)


async def shared_prefix(cached: Worker, cold: Worker, options: argparse.Namespace) -> list[list[object]]:
    """A row for each length: medians without and with the cache, and how often faster."""
    rows: list[list[object]] = []
    for length in options.prefixes:
        with_cache: list[float] = []
        without: list[float] = []
        prefix = text(f"prefix{length}", length)
        await cached.stream(raw(prefix + text("0", options.suffix)))
        for round_ in range(1, options.rounds + 1):
            prompt = raw(prefix + text(f"{round_}", options.suffix))
            line = await cached.stream(prompt)
            assert line.cached_tokens == length, line
            with_cache.append(line.first)
            without.append((await cold.stream(prompt)).first)
        slow, fast = statistics.median(without), statistics.median(with_cache)
        rows.append([length, options.suffix, 1e3 * slow, 1e3 * fast, slow / fast])
    return rows


def history(salt: str, count: int) -> list[pb.Message]:
    """The messages of a conversation of `count` but for its last two: user and assistant in turn, a user's at last.

    An even count begins with a system message.
    """
    messages: list[pb.Message] = []
    if count % 2 == 0:
        messages.append(pb.Message(role="system", content=text(f"{salt}s", MESSAGE_BYTES)))
    while len(messages) < count - 2:
        role = "assistant" if messages and messages[-1].role == "user" else "user"
        messages.append(pb.Message(role=role, content=text(f"{salt}m{len(messages)}", MESSAGE_BYTES)))
    return messages


async def follow_up(cached: Worker, cold: Worker, count: int, round_: int) -> tuple[Timeline, Timeline]:
    """The last request of a conversation without and with the cache; the answer before it is the model's own."""
    salt = f"c{count}r{round_}"
    messages = history(salt, count)
    # Letters only, so that the text of a random model's answer has its tokens again.
    before = chat(messages, MESSAGE_BYTES, Grammar="root ::= [a-z]+")
    answer = (await cached.stream(before)).text
    assert len(answer) == MESSAGE_BYTES, answer
    messages.append(pb.Message(role="assistant", content=answer))
    messages.append(pb.Message(role="user", content=text(f"{salt}last", MESSAGE_BYTES)))
    return await cold.stream(chat(messages)), await cached.stream(chat(messages))


async def conversations(cached: Worker, cold: Worker, options: argparse.Namespace) -> list[list[object]]:
    """A row for each number of messages: tokens, the bound, medians, the gain and its share of the bound."""
    rows: list[list[object]] = []
    for count in options.messages:
        pairs = [await follow_up(cached, cold, count, round_) for round_ in range(options.rounds)]
        slow = statistics.median(line.first for line, _ in pairs)
        fast = statistics.median(line.first for _, line in pairs)
        total, hit = pairs[-1][1].prompt_tokens, pairs[-1][1].cached_tokens
        bound = total / (total - hit)
        rows.append([count, total, total - hit, bound, 1e3 * slow, 1e3 * fast, slow / fast, slow / fast / bound])
    return rows


async def measure(options: argparse.Namespace) -> None:
    path = model(f"plain-32000-{options.hidden}", vocab=32_000, hidden=options.hidden, layers=8)
    async with worker() as cached, worker() as cold:
        await cached.load(path)
        await cold.load(path, "prompt_cache_size:0")
        for server in (cached, cold):  # the first request of a process pays for what is made at first use
            await server.stream(raw(text("warm", 600)))
        blas = await cached.blas()
        prefixes = await shared_prefix(cached, cold, options)
        follow_ups = await conversations(cached, cold, options)
    report = Report(options)
    report.note(f"vocabulary 32000, width {options.hidden}, 8 layers, BLAS {blas}, medians of {options.rounds}; ms")
    report.table(["shared prefix", "suffix", "no cache", "cache", "speed-up"], prefixes)
    headings = ["messages", "tokens", "new", "bound", "no cache", "cache", "speed-up", "of the bound"]
    report.table(headings, follow_ups)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prefixes", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--suffix", type=int, default=16)
    parser.add_argument("--messages", type=int, nargs="*", default=[3, 6, 12])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=512)
    asyncio.run(measure(parse(parser, prefixes=[256], messages=[3], rounds=1)))


if __name__ == "__main__":
    main()
