"""A draft model that is right as often as it is told to be: tokens a second with it and without, beside the formula.

    python -m benchmarks.drafting [--right 0.5 0.7 0.9] [--streams 1 4] [--draft-layers 2] [--turns 4]

Both models are random and their whole cost is paid, and what they say is written over their logits
(`benchmarks.scripted`); the draft model's tokens are the answer's with the chance that is given. One engine answers the
same requests with guesses and without in turn, after a first round that measures what passes and drafts cost. The
answers are noise, so nothing else finds anything to guess.

The formula is that of Leviathan et al. (2023): (1 - a^(k+1)) / (1 - a) tokens a pass over k guesses that are right with
the chance a, for 1 + k (c + v) plain steps, here as the engine has measured them for the best of its depths.

`--turns` adds a conversation: at each of its turns, how many tokens of the prompt each model reads, and how many the
draft model does where nothing that it has read is kept.

On a machine that others use too: `--processor` with OPENBLAS_NUM_THREADS=1, as with `benchmarks.speculation`.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.config import CacheConfig, Drafter, EngineConfig, ModelConfig
from backend.engine.handle import EngineHandle
from backend.engine.loading.blas import load_blas
from benchmarks.report import Report, arguments, parse
from benchmarks.scripts import SIZE
from benchmarks.serving import MODELS
from benchmarks.speculation import Bench, pairs_of

MODEL = frozenset({Drafter.MODEL})
OPENING = 3
"""Answers that the first prompt of a conversation is as long as."""


async def measure(options: argparse.Namespace) -> None:
    """Everything that was asked for."""
    report = Report(options)
    report.note(f"BLAS: {load_blas()}")
    from benchmarks.scripted import load_scripted, write_scripted

    sizes = ((options.hidden, options.layers), (options.draft_hidden, options.draft_layers))
    target, draft = (
        write_scripted(
            MODELS / f"scripted-qwen3-{options.vocab}-{hidden}-{layers}",
            "qwen3", vocab=options.vocab, hidden=hidden, layers=layers,
        )
        for hidden, layers in sizes
    )  # fmt: skip
    clock = time.process_time if options.processor else time.perf_counter
    report.note(f"models of (width, layers) {sizes}, vocabulary {options.vocab}, float32; {options.tokens} tokens each")
    for right in options.right:
        told: list[list[object]] = []
        for streams in options.streams:
            # A session has learned nothing of others.
            handle = EngineHandle(blas="reference", load=load_scripted, clock=clock)
            bench = Bench(handle, clock)
            bench.right = right
            try:
                engine = EngineConfig(
                    max_rows=streams, sampler=options.sampler, max_draft=options.max_draft, warm_up="off"
                )
                await bench.start(_config(target, draft, engine, CacheConfig(max_sequences=0)))
                told.append(await _measured(bench, handle, options, right, streams))
            finally:
                # The process ends next: a thread that still let its model go would abort it.
                await handle.close(within_s=60.0)
        report.table(
            ["right", "streams", "off tok/s", "on tok/s", "on/off", "least", "tokens a step", "of guesses right",
             "guesses a pass", "formula: best depth", "tokens a pass", "of plain steps", "on/off"],
            told,
        )  # fmt: skip
    turns = (
        [await _turns(options, target, draft, clock, keeps=keeps) for keeps in (True, False)] if options.turns else []
    )
    if turns:
        report.table(
            ["turn", "tokens of its prompt", "of which are new", "the model reads", "the draft model reads",
             "and where nothing is kept"],
            [[*kept, unkept[-1]] for kept, unkept in zip(*turns, strict=True)],
        )  # fmt: skip


def _config(target: Path, draft: Path, engine: EngineConfig, cache: CacheConfig) -> ModelConfig:
    return ModelConfig(
        identity=target.name, candidates=(str(target),), draft_candidates=(str(draft),), engine=engine, cache=cache
    )


async def _turns(
    options: argparse.Namespace, target: Path, draft: Path, clock: Callable[[], float], *, keeps: bool
) -> list[list[object]]:
    """Of each turn of a conversation, what is read of its prompt; later questions are as long as answers."""
    from benchmarks.scripted import load_scripted

    handle = EngineHandle(blas="reference", load=load_scripted, clock=clock)
    bench = Bench(handle, clock)
    bench.right = options.right[-1]
    engine = EngineConfig(sampler=options.sampler, max_draft=options.max_draft, warm_up="off", drafters=MODEL)
    cache = CacheConfig(max_bytes=1 << 30)
    said = pairs_of("noise", 1, options.tokens * (2 * options.turns + OPENING), 1)[0][1]
    told: list[list[object]] = []

    def prepare(session: Any) -> None:
        bench.follow(session, {said[0] // SIZE: said}, 1)
        if not keeps:
            session.speculating.drafting.drafter.kept = None

    try:
        await bench.start(_config(target, draft, engine, cache))
        await handle.with_session(prepare)
        for turn in range(options.turns):
            before = await handle.with_session(_read)
            end = options.tokens * (OPENING + 2 * turn)
            await bench.run([(said[:end], said[end : end + options.tokens])], again=True)
            after = await handle.with_session(_read)
            new = options.tokens * (1 if turn else OPENING)
            told.append([turn + 1, end, new, *(now - then for then, now in zip(before, after, strict=True))])
    finally:
        await handle.close(within_s=60.0)
    return told


def _read(session: Any) -> tuple[int, int]:
    """Tokens that the model and its draft model have read of prompts."""
    return session.counters.prefilled_tokens, session.speculating.drafting.drafter.read_tokens


async def _measured(
    bench: Bench, handle: EngineHandle, options: argparse.Namespace, right: float, streams: int
) -> list[object]:
    pairs = pairs_of("noise", streams, options.tokens, 1)
    off, on = await bench.measure(pairs, rounds=options.rounds, again=False)
    ratios = [fast.together / slow.together for fast, slow in zip(on.rates, off.rates, strict=True)]
    counted = on.counted
    depth, tokens, cost = await handle.with_session(lambda session: _formula(session, right, streams))
    drafted, accepted = counted["drafted"], counted["accepted"]
    return [
        right, streams, *(statistics.median(rates.together for rates in side.rates) for side in (off, on)),
        statistics.median(ratios), min(ratios), counted["generated"] / (counted["generated"] - accepted),
        accepted / max(1, drafted), drafted / max(1, counted["passes"] * streams),
        depth, tokens, cost, tokens / cost,
    ]  # fmt: skip


def _formula(session: Any, right: float, rows: int) -> tuple[int, float, float]:
    """The depth of the engine's that is best by the formula, what it gives, and what it costs as measured."""
    depths = session.speculating.depths
    best = (0, 1.0, 1.0)
    for depth in depths.options:
        tokens = (1 - right ** (depth + 1)) / (1 - right) if right < 1 else 1.0 + depth
        cost = depths.drafting.ratio(rows, depth)
        if tokens / cost > best[1] / best[2]:
            best = depth, tokens, cost
    return best


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__)
    parser.add_argument("--right", type=float, nargs="+", default=[0.5, 0.7, 0.9], help="chances of a guess")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4], help="at once, 15 at most")
    parser.add_argument("--tokens", type=int, default=384, help="of an answer, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=0, help="of a conversation whose reading is counted; 0 for none")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--draft-hidden", type=int, default=128)
    parser.add_argument("--draft-layers", type=int, default=2)
    parser.add_argument("--max-draft", type=int, default=8)
    parser.add_argument("--sampler", choices=("auto", "host", "device"), default="auto")
    parser.add_argument("--processor", action="store_true", help="processor time in place of the clock's")
    options = parse(
        parser, tokens=80, rounds=1, hidden=256, layers=12, draft_hidden=64, draft_layers=1, streams=[1], vocab=12_000
    )
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
