"""The very first request after the load beside the second: kernels that are compiled meanwhile show here."""

from backend.check.asking import SAMPLED, ask_all, request
from backend.check.section import Section
from backend.core.request import Sampling

_PROMPT, _TOKENS = 64, 16
# What the first may take beyond the second: a share of it, and what any timer may be off by.
_SHARE, _SLACK_S = 1.5, 0.02


async def run(section: Section) -> None:
    """Ask twice of each kind; must be the first section that asks anything."""
    for kind, sampling, rows in (("greedy", None, 1), ("sampled", SAMPLED, 1), ("four rows, greedy", None, 4)):
        if rows > 1 and section.subject.facts.serial_reason:
            section.skip(kind, "rows do not decode together")
            continue
        first, second = [await _seconds(section, sampling, rows, salt) for salt in (f"first {kind}", f"second {kind}")]
        section.judge(
            f"first request, {kind}",
            first * 1e3,
            "ms",
            good=first <= second * _SHARE + _SLACK_S,
            note=f"the second: {second * 1e3:.0f} ms; mark: {_SHARE} times that and {_SLACK_S * 1e3:.0f} ms",
        )


async def _seconds(section: Section, sampling: Sampling | None, rows: int, salt: str) -> float:
    subject = section.subject
    wanted = [
        request(f"{salt}-{row}", subject.text(_PROMPT, f"{salt} {row}"), _TOKENS, sampling=sampling)
        for row in range(rows)
    ]
    async with subject.endless():
        answers = await ask_all(subject.handle, wanted)
    return max(answer.seconds for answer in answers)
