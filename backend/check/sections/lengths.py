"""What unlike lengths cost: one long row and seven short ones in one decode group against two, and a row left alone."""

from functools import partial
from typing import Any

import mlx.core as mx

from backend.check.driving import (
    batch_of,
    copied,
    evaluate,
    medians,
    prefilled,
    random_tokens,
    row,
    rows,
    seconds_a_step,
    seconds_of,
    steps,
    steps_within,
    twins,
)
from backend.check.section import Section
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session

LONE_MARK = 1.05
_CHOICE_MARK = 1.1
_LONG, _SHORT, _SHORT_ROWS = 8192, 256, 7
_MOST_STEPS, _SECONDS = 48, 1.0
_ROUNDS = 5
_MEASUREMENTS = 30
# Seconds of the long row's prefill at most, and what a token of it may cost over one of a shorter prompt.
_MOST_PREFILL_S, _GROWTH = 120.0, 2.0
_MERGE_LENGTH = 1024


async def run(section: Section) -> None:
    """Measure both ways in turn."""
    subject = section.subject
    if subject.facts.serial_reason:
        section.skip("lengths", "rows do not decode together")
        return
    long = await _long(section)
    lone = await subject.on_engine(partial(_lone, section=section))
    for name, figure, base in (
        ("a row left alone by another, over one that always was", lone[1], lone[0]),
        ("a merged row of one, over an unmerged one (model alone)", lone[3], lone[2]),
    ):
        note = f"{figure * 1e3:.3g} ms a step against {base * 1e3:.3g}"
        if figure is lone[1]:
            section.judge(name, figure / base, "x", good=figure / base <= LONE_MARK, note=f"{note}; mark: {LONE_MARK}")
        else:
            section.figure(name, figure / base, "x", note)
    if long <= _SHORT:
        section.skip("one group against two", "no time or memory for a long row")
        return
    one, two, chosen = await subject.on_engine(partial(_grouped, section=section, long=long))
    shape = f"rows of {long} and {_SHORT_ROWS} x {_SHORT} tokens"
    section.figure("one group", one * 1e3, "ms a step for all", shape)
    section.figure("two groups", two * 1e3, "ms a step for all", shape)
    taken = one if chosen == 1 else two
    section.judge(
        f"the engine's choice ({chosen} group{'s' * (chosen > 1)}) over the faster",
        taken / min(one, two),
        "x",
        good=taken <= _CHOICE_MARK * min(one, two),
        note=f"mark: at most {_CHOICE_MARK}",
    )


async def _long(section: Section) -> int:
    """The long row's tokens that time and memory allow."""
    facts = section.subject.facts
    fits = min(_LONG, facts.context_length // 2, facts.budget_bytes // 16 // facts.kv_bytes_a_token)
    seconds = await section.subject.on_engine(_prefill_seconds)
    affordable = int(_MERGE_LENGTH * min(_MOST_PREFILL_S, section.allowance.part(3)) / seconds / _GROWTH)
    return min(fits, affordable) // _SHORT * _SHORT


def _prefill_seconds(session: Session) -> float:
    tokens = random_tokens(session, _MERGE_LENGTH, 3)
    prefilled(session, tokens)
    return seconds_of(partial(prefilled, session, tokens))


def _grouped(session: Session, section: Section, long: int) -> tuple[float, float, int]:
    """Seconds a step in one group and in two, and how many the engine would make."""
    members = rows(session, [long, *[_SHORT] * _SHORT_ROWS])
    chosen = _chosen(session, members)
    together = [batch_of(session, twins(session, members))]
    apart = [batch_of(session, twins(session, members[:1])), batch_of(session, twins(session, members[1:]))]
    one, two = _interleaved(section, together, apart)
    return one, two, chosen


def _chosen(session: Session, members: list[Row]) -> int:
    planned = len(session.groups.plan_join(members))
    session.groups.drop_empty()
    return planned


def _interleaved(section: Section, *ways: list[DecodeBatch]) -> list[float]:
    """Median seconds a step of each way."""
    seconds = min(_SECONDS, section.allowance.part(_MEASUREMENTS))
    counts = [steps_within(seconds, seconds_a_step(way, 3), most=_MOST_STEPS) for way in ways]
    figures = [
        [seconds_a_step(way, count) for way, count in zip(ways, counts, strict=True)]
        for _ in section.allowance.rounds(2, _ROUNDS)
    ]
    return medians(figures)


def _lone(session: Session, section: Section) -> list[float]:
    """Seconds a step: a lone row, one that another has left; and of the model alone: unmerged, merged."""
    tokens = random_tokens(session, _MERGE_LENGTH + 1, 5)
    caches = prefilled(session, tokens[:-1])
    alone = batch_of(session, [row(session, tokens, caches)])
    other = row(session, tokens, caches)
    left = batch_of(session, [row(session, tokens, caches), other])
    left.leave([other])
    steps([left], 3)
    merged = [layer.merge([layer]) for layer in copied(caches)]
    counts = _interleaved(section, [alone], [left])
    figures = [
        [_direct(session, own) for own in (copied(caches), merged)] for _ in section.allowance.rounds(2, _ROUNDS)
    ]
    return [*counts, *medians(figures)]


def _direct(session: Session, caches: list[Any]) -> float:
    """Seconds a step of the model with these caches and the likeliest token, one step ahead."""
    count = 16

    def work() -> None:
        fed = mx.array([[1]])
        for _ in range(count):
            fed = mx.argmax(session.loaded.model(fed, cache=caches)[:, -1:, :], axis=-1)
            mx.async_eval(fed)
        mx.eval(fed)
        evaluate(caches)

    work()
    return seconds_of(work) / count
