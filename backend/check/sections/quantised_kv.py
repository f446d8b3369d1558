"""Rows that hold their keys and values as codes: the model loaded once more, its answers, and a step of it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from backend.check.asking import SAMPLED, Asked, ask_all, ask_each, request
from backend.check.driving import batch_of, prefilled, random_tokens, row, seconds_a_step, steps_within
from backend.check.section import Section
from backend.check.sections.exactness import bound_of, judge_pairs, run_through
from backend.core.errors import ModelLoadFailed
from backend.core.request import GenerationRequest

if TYPE_CHECKING:
    from backend.engine.batching.session import Session

BITS = 8
_LENGTHS = (24, 130, 260, 48)
_TOKENS = 24
_LOGPROBS = 5
_ROWS, _LONG, _STEPS = 8, 2048, 32


async def run(section: Section) -> None:
    """Answers with codes alone, together and after a hit, beside those with numbers; a step of eight long rows."""
    subject = section.subject
    config = subject.handle.model_config()
    assert config is not None
    plain = await _alone(section, stored=False)
    length = _length(section)
    before = await subject.on_engine(partial(_step, length, section.allowance.part(4)))
    kv_bytes = subject.facts.kv_bytes_a_token
    try:
        await subject.load(replace(config, engine=replace(config.engine, kv_bits=BITS)))
    except ModelLoadFailed as error:
        section.skip(f"codes of {BITS} bits", str(error))
        return
    await _answers(section, plain)
    after = await subject.on_engine(partial(_step, length, section.allowance.part(4)))
    note = f"{_ROWS} rows of {length} tokens, {after * 1e3:.3g} against {before * 1e3:.3g} ms"
    section.figure("a step with codes over one with numbers", after / before, "x", note)
    section.figure("KV of a token with codes over numbers", subject.facts.kv_bytes_a_token / kv_bytes, "x")


async def _answers(section: Section, plain: Sequence[Asked]) -> None:
    alone = await _alone(section, stored=False)
    wanted = _requests(section, stored=False)
    bound = bound_of(section, await run_through(section, wanted, alone))
    if not section.subject.facts.serial_reason:
        crowd = await ask_all(section.subject.handle, wanted)
        judge_pairs(section, "codes: crowd against alone", wanted, crowd, alone, bound)
    if not section.subject.facts.uncached_reason:
        await _alone(section, stored=True)
        again = await _alone(section, stored=False)
        hits = sum(answer.end is not None and answer.end.usage.cached_tokens > 0 for answer in again)
        section.require("codes: cache hits", float(hits), f"of {len(again)}", right=hits == len(again))
        judge_pairs(section, "codes: after a cache hit against alone", wanted, again, alone, bound)
    apart = max(
        abs(mine.logprob - other.logprob)
        for ours, theirs in zip(alone, plain, strict=True)
        for mine, other in zip(ours.logprobs[:1], theirs.logprobs[:1], strict=True)
        if mine.id == other.id
    )
    section.figure("codes against numbers", apart, "nats apart", "first tokens' logprobs: what the codes lose")


async def _alone(section: Section, *, stored: bool) -> list[Asked]:
    return await ask_each(section.subject.handle, _requests(section, stored=stored))


def _requests(section: Section, *, stored: bool) -> list[GenerationRequest]:
    return [
        request(
            f"codes-{index}", section.subject.text(length, f"codes {index}"), _TOKENS,
            sampling=SAMPLED if index % 2 else None, logprobs=_LOGPROBS, stored=stored,
        )
        for index, length in enumerate(_LENGTHS)
    ]  # fmt: skip


def _length(section: Section) -> int:
    """Tokens of a long row, where so many rows of them fit beside what copies of them take."""
    facts = section.subject.facts
    return max(64, min(_LONG, facts.context_length // 2, facts.budget_bytes // (4 * _ROWS) // facts.kv_bytes_a_token))


def _step(length: int, seconds: float, session: "Session") -> float:
    """Seconds of a step of eight rows, which share what they hold so many tokens of."""
    tokens = random_tokens(session, length + 1, 29)
    caches = prefilled(session, tokens[:-1])
    batch = batch_of(session, [row(session, tokens, caches) for _ in range(_ROWS)])
    one = seconds_a_step([batch], 2)
    return seconds_a_step([batch], steps_within(seconds, one, most=_STEPS))
