"""The most memory that a busy engine takes, over what it has to keep."""

import asyncio

import mlx.core as mx

from backend.check.asking import ask, request
from backend.check.section import Section
from backend.engine.batching.session import Session

MARK = 1.4
_ROWS, _PROMPT, _TOKENS = 8, 1500, 48
_EVERY_S = 0.02


async def run(section: Section) -> None:
    """Prompts of unlike lengths come, decode together and go."""
    subject = section.subject
    facts = subject.facts
    longest = min(_PROMPT, facts.context_length // 2, facts.budget_bytes // (4 * _ROWS) // facts.kv_bytes_a_token)
    rows = _ROWS if section.allowance.left > 4 else 4
    await subject.on_engine(_begin)
    lives: list[float] = []
    watching = asyncio.ensure_future(_watch(section, lives))
    try:
        wanted = [
            request(
                f"memory-{row}", subject.text(max(8, longest * (row + 1) // rows), f"memory {row}"), _TOKENS + 4 * row
            )
            for row in range(rows)
        ]
        async with subject.endless():
            answers = await asyncio.gather(*(ask(subject.handle, one) for one in wanted))
    finally:
        watching.cancel()
    failed = [answer.error for answer in answers if answer.error is not None]
    if failed:
        raise failed[0]
    peak = await subject.on_engine(_peak)
    live = max(lives) + facts.weight_bytes
    section.judge(
        "peak over live",
        peak / live,
        "x",
        good=peak < MARK * live,
        note=f"{_mib(peak)} of {_mib(live)}: weights, live and cached KV; {rows} rows of up to {longest} tokens; "
        f"mark: under {MARK}",
    )
    section.figure(
        "peak over live, weights aside",
        (peak - facts.weight_bytes) / max(lives),
        "x",
        f"{_mib(peak - facts.weight_bytes)} of {_mib(max(lives))}: activations of a chunk included",
    )


async def _watch(section: Section, lives: list[float]) -> None:
    while True:
        used = section.subject.handle.status().breakdown
        lives.append(float(used.get("live_kv", 0) + used.get("cached_kv", 0)))
        await asyncio.sleep(_EVERY_S)


def _begin(session: Session) -> None:
    session.prefix.forget()
    mx.clear_cache()
    mx.reset_peak_memory()


def _peak(session: Session) -> float:
    del session
    return float(mx.get_peak_memory())


def _mib(count: float) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
