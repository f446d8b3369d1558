"""Guessed tokens: the same answers as without, and how much sooner, where the prompt cache knows what comes."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from backend.check.asking import SAMPLED, Asked, NotMeasured, ask_all, ask_each, request, tokens_a_second
from backend.check.section import Section
from backend.check.sections.exactness import bound_of, judge_pairs, run_through
from backend.config import Drafter
from backend.core.request import GenerationRequest

if TYPE_CHECKING:
    from backend.engine.batching.session import Session

_ROWS, _PROMPT = 8, 96
_TOKENS, _QUICK_TOKENS = 192, 32
_ROUNDS = 5
_LOGPROBS = 3


async def run(section: Section) -> None:
    """Have each question answered, then answered again, with guesses and without in turn."""
    subject, facts = section.subject, section.subject.facts
    if facts.speculation_reason:
        section.skip("guessed tokens", facts.speculation_reason)
        return
    if facts.uncached_reason:
        section.skip("guessed tokens", f"the prompt cache knows no answers: {facts.uncached_reason}")
        return
    tokens = _QUICK_TOKENS if section.allowance.part(_ROUNDS) < 1.0 else _TOKENS
    rows = 1 if facts.serial_reason else _ROWS
    async with subject.endless():
        wanted = [_request(section, row, tokens) for row in range(rows)]
        # Stored with their answers, which later ones to the same prompt are guessed from.
        await ask_all(subject.handle, wanted)
        await _judge(section, wanted)
        for some in ([wanted[0]], wanted) if rows > 1 else ([wanted[0]],):
            await _measure(section, some)


async def _judge(section: Section, wanted: Sequence[GenerationRequest]) -> None:
    """Whether answers are the same, one at a time and all at once."""
    handle = section.subject.handle
    plain = await ask_each(handle, wanted)
    bound = bound_of(section, await run_through(section, wanted, plain))
    async with section.subject.guessing():
        alone = await ask_each(handle, wanted)
        crowd = await ask_all(handle, wanted)
    judge_pairs(section, "guessed alone against not", wanted, alone, plain, bound)
    if len(wanted) > 1:
        judge_pairs(section, "guessed in a crowd against not", wanted, crowd, plain, bound)


async def _measure(section: Section, wanted: Sequence[GenerationRequest]) -> None:
    """Tokens a second with guesses over without, in rounds; the first warms up."""
    name = f"{len(wanted)} row{'s' * (len(wanted) > 1)}, the same questions again: with guesses over without"
    ratios: list[float] = []
    counted = {"drafted": 0, "accepted": 0, "passes": 0}
    for round_ in section.allowance.rounds(2, _ROUNDS + 1):
        off = await _rate(section, wanted)
        async with section.subject.guessing():
            before = await section.subject.on_engine(_counted)
            on = await _rate(section, wanted)
            after = await section.subject.on_engine(_counted)
        if round_ and off and on:
            ratios.append(on / off)
            counted = {key: counted[key] + after[key] - before[key] for key in counted}
        section.say(f"round {round_} of at most {_ROUNDS}")
    if not ratios:
        section.skip(name, "the answers ended too soon to measure a rate")
        return
    note = f"{counted['accepted']} of {counted['drafted']} guessed tokens right in {counted['passes']} passes"
    section.judge(
        name, median(ratios), "x", good=median(ratios) >= 1.0, note=f"{note}; mark: at least 1", rounds=ratios
    )


async def _rate(section: Section, wanted: Sequence[GenerationRequest]) -> float:
    """Tokens a second of all; 0 where they were too few to say."""
    try:
        answers: list[Asked] = await ask_all(section.subject.handle, wanted)
        return tokens_a_second(answers)
    except NotMeasured:
        return 0.0


def _request(section: Section, row: int, tokens: int) -> GenerationRequest:
    prompt = section.subject.text(_PROMPT, f"guess {row}")
    sampling = SAMPLED if row % 2 else None
    return request(f"guess-{row}", prompt, tokens, sampling=sampling, logprobs=_LOGPROBS, stored=True)


def _counted(session: "Session") -> dict[str, int]:
    counters = session.counters
    return {
        "drafted": counters.drafted_tokens[Drafter.CACHE],
        "accepted": counters.accepted_tokens[Drafter.CACHE],
        "passes": counters.verify_passes,
    }
