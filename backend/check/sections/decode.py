"""Tokens a second of 1 and 8 rows, greedy and sampled, beside mlx-lm's generators, in turn, in one run."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, stream_generate
from mlx_lm.sample_utils import make_sampler

from backend.check.asking import SAMPLED, NotMeasured, ask_all, request, tokens_a_second
from backend.check.section import Section
from backend.core.request import Sampling
from backend.engine.batching.session import Session

MARK = 0.95
_PROMPT = 64
_LEAST_TOKENS, _MOST_TOKENS, _SECONDS = 48, 192, 1.5
# Measurements in the round that there must be, and in two more.
_MEASUREMENTS = 30
_WARM_TOKENS = 16
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class _Way:
    """What is measured: so many rows, drawn so."""

    kind: str
    sampling: Sampling | None
    rows: int

    def __str__(self) -> str:
        return f"{self.rows} row{'s' * (self.rows > 1)}, {self.kind}"


async def run(section: Section) -> None:
    """Measure in rounds; the first warms everything up and is not counted."""
    together = not section.subject.facts.serial_reason
    counts = (1, 8) if together else (1,)
    ways = [
        _Way(kind, sampling, rows) for kind, sampling in (("greedy", None), ("sampled", SAMPLED)) for rows in counts
    ]
    tokens = await _tokens(section)
    figures: dict[_Way, dict[str, list[float]]] = {way: {} for way in ways}
    for round_ in section.allowance.rounds(2, _ROUNDS + 1):
        for way in ways:
            if section.allowance.overdrawn:
                break
            rates = await _rates(section, way, tokens if round_ else _WARM_TOKENS, round_)
            for side, rate in rates.items() if round_ else ():
                figures[way].setdefault(side, []).append(rate)
        section.say(f"round {round_} of at most {_ROUNDS}, {tokens} tokens a row")
    for way, sides in figures.items():
        _tell(section, way, sides)
    if not together:
        section.skip("8 rows", "rows do not decode together")


def _tell(section: Section, way: _Way, sides: dict[str, list[float]]) -> None:
    if not sides:
        section.skip(str(way), "no time was left, or the answers ended too soon")
        return
    ours = median(sides["worker"])
    note = f"median of {len(sides['worker'])}, {1e3 * way.rows / ours:.3g} ms a step"
    section.figure(f"{way}: worker", ours, "tok/s", note, rounds=sides["worker"])
    for side, rates in sides.items():
        if side != "worker":
            theirs = median(rates)
            section.judge(
                f"{way}: worker over mlx-lm's {side}",
                ours / theirs,
                "x",
                good=ours / theirs >= MARK,
                note=f"{side} {theirs:.4g} tok/s; mark: at least {MARK}",
                rounds=rates,
            )


async def _rates(section: Section, way: _Way, tokens: int, round_: int) -> dict[str, float]:
    """Tokens a second of each side, one after the other; nothing where answers are too short for it."""
    try:
        return await _round(section, way.sampling, way.rows, tokens, f"{way} {round_}")
    except NotMeasured as why:
        section.say(f"round {round_}, {way}: {why}")
        return {}


async def _tokens(section: Section) -> int:
    """Tokens a row that take about as long as a measurement should."""
    try:
        rate = await _ours(section, None, 1, _LEAST_TOKENS, "decode speed")
    except NotMeasured:
        return _MOST_TOKENS
    seconds = min(_SECONDS, section.allowance.part(_MEASUREMENTS))
    return max(_LEAST_TOKENS, min(_MOST_TOKENS, int(rate * seconds)))


async def _round(section: Section, sampling: Sampling | None, rows: int, tokens: int, salt: str) -> dict[str, float]:
    rates = {"worker": await _ours(section, sampling, rows, tokens, salt)}
    prompts = [
        section.subject.encode(section.subject.text(_PROMPT, f"{salt} theirs {row}")).tolist() for row in range(rows)
    ]
    engine = section.subject.on_engine
    if rows == 1:
        rates["stream_generate"] = await engine(partial(_streamed, prompt=prompts[0], tokens=tokens, sampling=sampling))
    rates["BatchGenerator"] = await engine(partial(_batched, prompts=prompts, tokens=tokens, sampling=sampling))
    return rates


async def _ours(section: Section, sampling: Sampling | None, rows: int, tokens: int, salt: str) -> float:
    subject = section.subject
    wanted = [
        request(f"decode-{row}", subject.text(_PROMPT, f"{salt} {row}"), tokens, sampling=sampling, stored=False)
        for row in range(rows)
    ]
    async with subject.endless():
        return tokens_a_second(await ask_all(subject.handle, wanted))


def _sampler(sampling: Sampling | None) -> Any:
    if sampling is None:
        return None
    return make_sampler(sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k or 0)


def _streamed(session: Session, prompt: list[int], tokens: int, sampling: Sampling | None) -> float:
    loaded = session.loaded
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.eos_token_ids = ()
    made = stream_generate(loaded.model, tokenizer, mx.array(prompt), max_tokens=tokens, sampler=_sampler(sampling))
    return _rate([time.perf_counter() for _ in made], 1)


def _batched(session: Session, prompts: list[list[int]], tokens: int, sampling: Sampling | None) -> float:
    generator = BatchGenerator(session.loaded.model, max_tokens=tokens, stop_tokens=[], sampler=_sampler(sampling))
    try:
        generator.insert(prompts)
        times: list[float] = []
        while responses := generator.next_generated():
            if len(responses) == len(prompts):
                times.append(time.perf_counter())
    finally:
        generator.close()
    return _rate(times, len(prompts))


def _rate(times: Sequence[float], rows: int) -> float:
    if len(times) < 8:
        raise NotMeasured("mlx-lm's answers ended too soon to measure a rate")
    return rows * (len(times) - 1) / (times[-1] - times[0])
