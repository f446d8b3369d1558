"""What a row that leaves a batch and one that joins it cost the others."""

from functools import partial
from statistics import median
from time import perf_counter

from backend.check.driving import batch_of, prefilled, random_tokens, row, seconds_a_step, twins
from backend.check.section import Section
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session

MARK_S = 1e-3
_ROWS, _LENGTH = 8, 512
_ROUNDS = 8


async def run(section: Section) -> None:
    """Let one of eight go and come back, again and again."""
    if section.subject.facts.serial_reason:
        section.skip("leaving", "rows do not decode together")
        return
    step, leaves, after, joins, later = await section.subject.on_engine(partial(_measure, section=section))
    note = f"one of {_ROWS} rows of {_LENGTH} tokens"
    if section.subject.facts.on_gpu:
        mark = f"{note}; mark: under {MARK_S * 1e3:g} ms"
        section.judge(
            "the call that leaves", median(leaves) * 1e3, "ms", good=median(leaves) < MARK_S, note=mark, rounds=leaves
        )
    else:
        section.figure(
            "the call that leaves", median(leaves) * 1e3, "ms", f"{note}; the mark is for GPUs", rounds=leaves
        )
    section.figure("the first step after it, over others", median(after) / step, "x", f"{step * 1e3:.3g} ms a step")
    section.figure("the call that joins", median(joins) * 1e3, "ms", note, rounds=joins)
    section.figure("the first step after it, over others (join)", median(later) / step, "x")


def _measure(session: Session, section: Section) -> tuple[float, list[float], list[float], list[float], list[float]]:
    tokens = random_tokens(session, _LENGTH + 1, 23)
    caches = prefilled(session, tokens[:-1])
    batch = batch_of(session, [row(session, tokens, caches) for _ in range(_ROWS)])
    step = seconds_a_step([batch], 8)
    spare = row(session, tokens, caches)
    leaves: list[float] = []
    after: list[float] = []
    joins: list[float] = []
    later: list[float] = []
    for _ in section.allowance.rounds(3, _ROUNDS):
        gone: list[Row] = batch.rows[:1]
        # As a session does it: right after a step, which still runs on the device.
        batch.step()
        leaves.append(_call(partial(batch.leave, gone)))
        after.append(seconds_a_step([batch], 1))
        joins.append(_call(partial(batch.join, twins(session, [spare]))))
        later.append(seconds_a_step([batch], 1))
        batch.step()
    return step, leaves, after, joins, later


def _call(work: partial[None]) -> float:
    """Wall time of a call beside whatever the device still does."""
    began = perf_counter()
    work()
    return perf_counter() - began
