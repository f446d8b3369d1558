"""Answers alone, in a crowd and after a cache hit, with each other and with mlx-lm's own logits of the same tokens."""

import asyncio
from collections.abc import Sequence
from functools import partial
from statistics import median

from backend.check.asking import SAMPLED, Asked, NotMeasured, ask, ask_all, ask_each, request
from backend.check.section import Section
from backend.check.teacher import Agreement, Bound, Taught, agreement, teach
from backend.core.request import GenerationRequest

_LENGTHS = (5, 24, 60, 130, 260, 33, 90, 48)
_TOKENS = 24
_LOGPROBS = 5
# How often each is asked or run, and what costs as much.
_WAYS = 6


async def run(section: Section) -> None:
    """Ask the same alone twice, in a crowd and after a cache hit."""
    handle = section.subject.handle
    first = (await ask_all(handle, [_request(section, 0)]))[0]
    enough = first.seconds < section.allowance.part(_WAYS * len(_LENGTHS))
    wanted = [_request(section, index) for index in range(len(_LENGTHS) if enough else len(_LENGTHS) // 2)]
    alone = [first, *await ask_each(handle, wanted[1:])]
    taught = await run_through(section, wanted, alone)
    bound = bound_of(section, taught)
    again = await ask_each(handle, wanted)
    judge_pairs(section, "alone once more against alone", wanted, again, alone, bound)
    _judge_taught(section, "alone against mlx-lm", wanted, taught, bound)
    if section.subject.facts.serial_reason:
        section.skip("crowd against alone", "rows do not decode together")
    else:
        before = handle.info().queue
        crowd = await _crowd(section, wanted)
        after = handle.info().queue
        decoded = after["generated_tokens"] - before["generated_tokens"]
        rows = decoded / max(1.0, after["decode_steps"] - before["decode_steps"])
        section.figure("rows of the crowd that decoded together", rows, "on average")
        judge_pairs(section, "crowd against alone", wanted, crowd, alone, bound)
        against = await run_through(section, wanted, crowd)
        _judge_taught(section, "crowd against mlx-lm", wanted, against, bound)
    await _after_hits(section, wanted, alone, bound)


def bound_of(section: Section, taught: Sequence[Taught]) -> Bound:
    """The bound in nats, from the range of the logits of these answers."""
    facts = section.subject.facts
    ranges = [value for one in taught for value in one.ranges]
    if not ranges:
        raise NotMeasured("every answer was empty")
    return Bound(facts.relative_bound * median(ranges), facts.experts)


def _request(section: Section, index: int, *, stored: bool = False) -> GenerationRequest:
    prompt = section.subject.text(_LENGTHS[index], f"exact {index}")
    sampling = SAMPLED if index % 2 else None
    return request(f"exact-{index}", prompt, _TOKENS, sampling=sampling, logprobs=_LOGPROBS, stored=stored)


def _is_greedy(wanted: GenerationRequest) -> bool:
    return wanted.sampling.temperature == 0.0


async def run_through(section: Section, wanted: Sequence[GenerationRequest], answers: Sequence[Asked]) -> list[Taught]:
    """Each answer against mlx-lm's model in one pass."""
    taught: list[Taught] = []
    for one, answer in zip(wanted, answers, strict=True):
        assert isinstance(one.prompt, str)
        prompt = section.subject.encode(one.prompt)
        taught.append(await section.subject.on_engine(partial(teach, prompt=prompt, answer=answer.logprobs)))
    return taught


async def _crowd(section: Section, wanted: Sequence[GenerationRequest]) -> list[Asked]:
    """All at once, beside some that leave."""
    handle = section.subject.handle

    async def one(index: int, asked: GenerationRequest) -> Asked:
        if index % 3 == 2:
            await ask(handle, asked, cancel_after=2)
        return await ask(handle, asked)

    return list(await asyncio.gather(*(one(index, asked) for index, asked in enumerate(wanted))))


async def _after_hits(
    section: Section, wanted: Sequence[GenerationRequest], alone: Sequence[Asked], bound: Bound
) -> None:
    name = "after a cache hit against alone"
    if section.subject.facts.uncached_reason:
        section.skip(name, section.subject.facts.uncached_reason)
        return
    handle = section.subject.handle
    # A prompt alone is stored, and then asked for with what follows.
    stored = [_request(section, index, stored=True) for index in range(len(wanted))]
    await ask_each(handle, stored)
    again = await ask_each(handle, wanted)
    hits = sum(answer.end is not None and answer.end.usage.cached_tokens > 0 for answer in again)
    section.require("cache hits", float(hits), f"of {len(again)}", right=hits == len(again))
    judge_pairs(section, name, wanted, again, alone, bound)
    against = await run_through(section, wanted, again)
    _judge_taught(section, "after a cache hit against mlx-lm", wanted, against, bound)


def judge_pairs(
    section: Section,
    name: str,
    wanted: Sequence[GenerationRequest],
    ours: Sequence[Asked],
    theirs: Sequence[Asked],
    bound: Bound,
) -> None:
    """A row about two answers to each of the same requests."""
    found = Agreement()
    for one, mine, other in zip(wanted, ours, theirs, strict=True):
        found += agreement(mine, other, bound, greedy=_is_greedy(one))
    section.require(name, float(found.equal), f"of {len(ours)} equal", right=found.right, note=found.told(bound))


def _judge_taught(
    section: Section, name: str, wanted: Sequence[GenerationRequest], taught: Sequence[Taught], bound: Bound
) -> None:
    worst = max(max(one.apart, default=0.0) for one in taught)
    behind = [max(one.behind, default=0.0) for request, one in zip(wanted, taught, strict=True) if _is_greedy(request)]
    likeliest = sum(value == 0.0 for value in behind)
    right = all(bound.holds(one.apart) for one in taught)
    right = right and all(
        bound.holds(one.behind) for request, one in zip(wanted, taught, strict=True) if _is_greedy(request)
    )
    note = f"logprobs of served tokens and their alternatives; bound {bound.nats:.3g}, {section.subject.facts.dtype}; "
    note += f"{likeliest} of {len(behind)} greedy answers all of likeliest tokens, others behind by at most "
    note += f"{max(behind, default=0.0):.2g}"
    section.require(name, worst, "nats apart", right=right, note=note)
