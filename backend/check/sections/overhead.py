"""Time on the engine thread outside the model: a served step beside the bare model's."""

import time
from dataclasses import dataclass
from functools import partial
from statistics import median

import mlx.core as mx

from backend.check.asking import ask_all, request
from backend.check.driving import evaluate, merged, prefilled, random_tokens
from backend.check.section import Section
from backend.engine.batching.session import Session

_PROMPT, _TOKENS, _MOST_TOKENS = 64, 32, 128
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds a step: on the clock, and of the engine thread's processor."""

    wall: float
    cpu: float


async def run(section: Section) -> None:
    """Serve rows and drive the bare model, in turn."""
    for count in (1,) if section.subject.facts.serial_reason else (1, 8):
        tokens = _TOKENS
        served: list[_Spent] = []
        bare: list[_Spent] = []
        for round_ in section.allowance.rounds(1, _ROUNDS):
            served.append(await _served(section, count, tokens, round_))
            bare.append(await section.subject.on_engine(partial(_bare, count=count, tokens=tokens)))
            if section.allowance.left > 2:
                tokens = _MOST_TOKENS
        wall, cpu = (
            [median(getattr(one, name) for one in side) for side in (served, bare)] for name in ("wall", "cpu")
        )
        rows = f"{count} row{'s' * (count > 1)}"
        section.figure(
            f"engine thread outside the model, {rows}",
            (cpu[0] - cpu[1]) / count * 1e6,
            "us of processor a token",
            f"a served step {cpu[0] * 1e6:.0f}, the bare model {cpu[1] * 1e6:.0f}",
        )
        section.figure(
            f"a served decode step over the bare model's, {rows}",
            wall[0] / wall[1],
            "x",
            f"{wall[0] * 1e3:.3g} ms against {wall[1] * 1e3:.3g}",
        )


async def _served(section: Section, count: int, tokens: int, round_: int) -> _Spent:
    subject = section.subject
    began = await subject.on_engine(_spent_so_far)
    wanted = [
        request(f"overhead-{row}", subject.text(_PROMPT, f"overhead {count} {round_} {row}"), tokens, stored=False)
        for row in range(count)
    ]
    async with subject.endless():
        await ask_all(subject.handle, wanted)
    ended = await subject.on_engine(_spent_so_far)
    # A prompt of 64 tokens is about one step; it is part of both figures' noise, not of the model's share.
    steps = max(1.0, ended[2] - began[2])
    return _Spent((ended[1] - began[1]) / steps, (ended[0] - began[0]) / steps)


def _spent_so_far(session: Session) -> tuple[float, float, float]:
    """Seconds of this thread's processor, seconds in decode steps, decode steps."""
    counters = session.counters
    return time.thread_time(), counters.decode_seconds, float(counters.decode_steps)


def _bare(session: Session, count: int, tokens: int) -> _Spent:
    """The model and the likeliest token, one step ahead, as the simplest loop would have it."""
    prompt = random_tokens(session, _PROMPT, 41)
    own = [prefilled(session, prompt) for _ in range(count)]
    caches = merged(own)
    evaluate(caches)
    mx.synchronize()
    fed = mx.array([[1]] * count)
    began, cpu = time.perf_counter(), time.thread_time()
    before = fed
    for _ in range(tokens):
        fed = mx.argmax(session.loaded.model(before, cache=caches)[:, -1:, :], axis=-1)
        mx.async_eval(fed)
        mx.eval(before)
        before = fed
    mx.eval(fed)
    return _Spent((time.perf_counter() - began) / tokens, (time.thread_time() - cpu) / tokens)
