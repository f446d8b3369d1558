"""Speculation against none: tokens a second of the same answers in the same engine, by kind of text.

    python -m benchmarks.speculation [--workloads prose noise] [--streams 1 8] [--cost] [--family qwen3_next]

A random model copies nothing, so its answers are written beforehand and put over the logits that it computes all the
same (`benchmarks.scripted`). One engine answers the same requests with speculation and without in turn, so that both
have the same weights, the same prompt cache and the same machine; the first turn of each warms up and leaves the
prompts in the cache. Tokens a second are those of all rows while all of them decode: rows that copy end long before
their batch mates, which go on alone; `whole` is the same from the first request to the last end. Ratios are medians of
those of one round.

On a machine that others use too, `--processor` with OPENBLAS_NUM_THREADS=1 takes the seconds of this process's threads
in place of those of the clock, for the engine's own choice of depths as well.

Tokens a step are those of one row. `--cost` shows what a pass over drafted tokens costs, in plain steps, what it
holds, and what plain steps cost where rows do not end in the same column.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.core.events import Delta, Failed, Finished
from backend.core.request import GenerationRequest
from backend.engine.handle import EngineHandle
from backend.engine.loading.blas import load_blas
from benchmarks.report import Report, arguments, parse
from benchmarks.scripts import AGAIN, MIXED, SIZE, WORKLOADS, Author, Script, text_of
from benchmarks.serving import MODELS

FAMILIES = ("qwen3", "llama", "qwen3_next", "gemma3_text")
Tokens = tuple[int, ...]
Line = list[tuple[float, int]]
"""When an answer had how many tokens, in seconds."""


class Rates(NamedTuple):
    """Tokens a second of all rows: while all of them decode, and from the first request to the last end."""

    together: float
    whole: float


def rates_of(lines: Sequence[Line], started: float) -> Rates:
    """Of the answers to requests that were sent at a time."""
    begin = max(line[0][0] for line in lines)
    end = min(line[-1][0] for line in lines)

    def tokens(until: float) -> int:
        return sum(max((tokens for at, tokens in line if at <= until), default=0) for line in lines)

    last = max(line[-1][0] for line in lines)
    whole = tokens(last) / (last - started)
    # Of very short answers the first may be over before the last begins.
    return Rates((tokens(end) - tokens(begin)) / (end - begin) if end > begin else whole, whole)


class Side:
    """What was measured with speculation, or without."""

    def __init__(self) -> None:
        self.rates: list[Rates] = []
        self.counted: dict[str, int] = {}

    def add(self, rates: Rates, counted: Mapping[str, int]) -> None:
        """A round more."""
        self.rates.append(rates)
        self.counted = {name: self.counted.get(name, 0) + value for name, value in counted.items()}


class Bench:
    """An engine whose model answers as scripted. Event loop only.

    Attributes:
        right: How often a draft model's next token is the script's, if there is such a model.
    """

    def __init__(self, handle: EngineHandle, clock: Callable[[], float]) -> None:
        self._handle, self._clock = handle, clock
        self.right = 1.0
        self._kinds: frozenset[Any] = frozenset()

    async def start(self, config: ModelConfig) -> None:
        """Load the model."""
        self._handle.start()
        await self._handle.load(config)
        self._kinds = await self._handle.with_session(lambda session: session.speculating.kinds)
        if not self._kinds:
            raise SystemExit(await self._handle.with_session(lambda session: session.loaded.speculation_reason))

    async def measure(self, pairs: Sequence[tuple[Tokens, Tokens]], *, rounds: int, again: bool) -> tuple[Side, Side]:
        """All prompts at once, and their answers, without and with speculation in turn."""
        texts = {prompt[0] // SIZE: [*prompt, *answer] for prompt, answer in pairs}
        sides = Side(), Side()
        for round_ in range(rounds + 1):
            # Whichever is first in one round is second in the next.
            for on in (False, True) if round_ % 2 else (True, False):
                kinds = self._kinds if on else frozenset[Any]()
                await self._handle.with_session(lambda session, kinds=kinds: _set_kinds(session, kinds))
                await self._handle.with_session(lambda session, seed=round_: self.follow(session, texts, seed))
                before = await self._handle.with_session(_counted)
                rates = await self.run(pairs, again=again)
                after = await self._handle.with_session(_counted)
                counted = {name: value - before[name] for name, value in after.items()}
                if round_:
                    sides[on].add(rates, counted)
        return sides

    def follow(self, session: Any, texts: Mapping[int, Sequence[int]], seed: int) -> None:
        """Have the session's models say these texts. Engine thread only."""
        session.loaded.model.follow(texts)
        if session.loaded.draft is not None:
            # Other mistakes each time: those of one beginning would decide what a session makes of it.
            session.loaded.draft.model.follow(texts, right=self.right, seed=seed)

    async def run(self, pairs: Sequence[tuple[Tokens, Tokens]], *, again: bool) -> Rates:
        """All prompts at once, and their answers, which are kept if they are asked for again."""
        started = self._clock()
        lines = await asyncio.gather(*(self._answer(prompt, answer, again) for prompt, answer in pairs))
        return rates_of(lines, started)

    async def _answer(self, prompt: Tokens, answer: Tokens, again: bool) -> Line:
        """When how many tokens of the answer had come."""
        told, line = "", Line()
        stream = await self._handle.submit(
            GenerationRequest(
                request_id="r", prompt=text_of(prompt), max_tokens=len(answer), cache_answer=again, streamed=True
            )
        )
        async for event in stream:
            match event:
                case Delta() | Finished():
                    told += event.piece.content
                    line.append((self._clock(), event.usage.completion_tokens))
                case Failed(error=error):
                    raise error
        assert told == text_of(answer), "the answer is not the script's"
        return line

    async def costs(self, rows: Sequence[int], rounds: int) -> list[list[object]]:
        """As `pass_costs.passes`."""
        from benchmarks.pass_costs import passes

        told: list[list[object]] = []
        for n in rows:
            told += await self._handle.with_session(lambda session, n=n: passes(session, n, rounds, self._clock))
        return told

    async def memory(self, rows: Sequence[int]) -> list[list[object]]:
        """As `pass_costs.memory`."""
        from benchmarks.pass_costs import memory

        told: list[list[object]] = []
        for n in rows:
            told += await self._handle.with_session(lambda session, n=n: memory(session, n))
        return told

    async def columns(self, rows: int, rounds: int) -> list[list[object]]:
        """As `pass_costs.columns`."""
        from benchmarks.pass_costs import columns

        return await self._handle.with_session(lambda session: columns(session, rows, rounds, self._clock))


def _set_kinds(session: Any, kinds: frozenset[Any]) -> None:
    session.speculating.kinds = kinds


def _counted(session: Any) -> dict[str, int]:
    counters = session.counters
    return {
        "generated": counters.generated_tokens,
        "passes": counters.verify_passes,
        "steps": counters.decode_steps,
        "drafted": counters.drafted_tokens.total(),
        "accepted": counters.accepted_tokens.total(),
    }


def pairs_of(kind: str, streams: int, tokens: int, seed: int) -> list[tuple[Tokens, Tokens]]:
    """Prompts and answers, of unlike lengths where there are several, each in the tokens of a script of its own."""
    made: list[tuple[Tokens, Tokens]] = []
    for index in range(streams):
        base = (1 + index) * SIZE
        author = Author(100 * seed + index)
        count = tokens if streams == 1 else int(tokens * (0.8 + 0.4 * index / (streams - 1)))
        # Every other row of the mixed ones copies.
        maker = ("rewrite a file", "prose")[index % 2] if kind == MIXED else kind
        script: Script = WORKLOADS[maker](author, count)
        made.append((tuple(base + t for t in script.prompt), tuple(base + t for t in script.answer)))
    return made


async def measure(options: argparse.Namespace) -> None:
    """Everything that was asked for."""
    report = Report(options)
    report.note(f"BLAS: {load_blas()}")
    from benchmarks.scripted import load_scripted, write_scripted

    path = write_scripted(
        MODELS / f"scripted-{options.family}-{options.vocab}-{options.hidden}-{options.layers}",
        options.family, vocab=options.vocab, hidden=options.hidden, layers=options.layers,
    )  # fmt: skip
    # The BLAS is loaded: the engine is to take what there is.
    clock = time.process_time if options.processor else time.perf_counter
    handle = EngineHandle(blas="reference", load=load_scripted, clock=clock)
    bench = Bench(handle, clock)
    try:
        await bench.start(
            ModelConfig(
                identity=path.name,
                candidates=(str(path),),
                engine=EngineConfig(
                    max_rows=max(options.streams), sampler=options.sampler, max_draft=options.max_draft
                ),
                cache=CacheConfig(max_sequences=64),
            )
        )
        size = f"vocabulary {options.vocab}, width {options.hidden}, {options.layers} layers"
        report.note(f"{options.family} of {size}, float32; answers of about {options.tokens} tokens")
        if options.cost:
            await report_costs(bench, report, options)
        else:
            await report_ratios(bench, report, options)
    finally:
        # The process ends next: a thread that still let its model go would abort it.
        await handle.close(within_s=60.0)


async def report_costs(bench: Bench, report: Report, options: argparse.Namespace) -> None:
    """What passes and plain steps cost."""
    report.table(
        ["rows", "depth", "all right: model, ms", "in all, ms", "of a plain step", "all wrong: model, ms",
         "in all, ms", "of a plain step"],
        await bench.costs(options.streams, options.rounds),
    )  # fmt: skip
    report.table(
        ["rows", "depth", "peak of a plain step, MiB", "of a pass", "more", "projected"],
        await bench.memory(options.streams),
    )
    report.table(["plain steps", "rows", "tokens", "ms", "of level rows"], await bench.columns(8, options.rounds))


async def report_ratios(bench: Bench, report: Report, options: argparse.Namespace) -> None:
    """Tokens a second of each kind of text."""
    told: list[list[object]] = []
    for kind in options.workloads:
        for streams in options.streams:
            if kind == MIXED and streams == 1:
                continue
            pairs = pairs_of(kind, streams, options.tokens, list(WORKLOADS).index(kind) + 1)
            off, on = await bench.measure(pairs, rounds=options.rounds, again=kind == AGAIN)
            counted = on.counted
            pairs_of_rates = list(zip(on.rates, off.rates, strict=True))
            ratios = [fast.together / slow.together for fast, slow in pairs_of_rates]
            whole = statistics.median(fast.whole / slow.whole for fast, slow in pairs_of_rates)
            row_steps = counted["generated"] - counted["accepted"]
            told.append(
                [kind, streams, *(statistics.median(rates.together for rates in side.rates) for side in (off, on)),
                 statistics.median(ratios), min(ratios), whole, counted["generated"] / row_steps,
                 counted["passes"] / counted["steps"], counted["drafted"], counted["accepted"]]
            )  # fmt: skip
            report.note(f"{kind}, {streams}: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))
    report.table(
        ["text", "streams", "off tok/s", "on tok/s", "on/off", "least", "whole, on/off", "tokens a step",
         "passes of steps", "drafted", "accepted"],
        told,
    )  # fmt: skip


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="TEXT")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="at once, 15 at most")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--family", choices=FAMILIES, default="qwen3")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sampler", choices=("auto", "host", "device"), default="auto")
    parser.add_argument("--max-draft", type=int, default=EngineConfig().max_draft)
    parser.add_argument("--cost", action="store_true", help="of passes and steps, in place of the ratios")
    parser.add_argument("--processor", action="store_true", help="processor time in place of the clock's")
    options = parse(parser, tokens=40, rounds=1, hidden=64, layers=2, streams=[1, 4], vocab=12_000)
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
