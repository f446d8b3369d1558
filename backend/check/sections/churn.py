"""Streams with everything at once, for a while: shared prefixes, cancels, deadlines, a cache that is too small."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import mlx.core as mx

from backend.check.asking import Asked, ask, ask_each, request
from backend.check.section import Section
from backend.check.sections.exactness import bound_of, run_through
from backend.check.teacher import Agreement, Bound, agreement
from backend.config import CacheConfig
from backend.core.errors import DeadlineExceeded, RequestCancelled
from backend.core.request import GenerationRequest, Sampling
from backend.engine.batching.session import Session
from backend.engine.reports import resident_bytes

_CLIENTS, _ROWS, _PROMPTS, _PREFIXES = 12, 8, 16, 4
_PREFIX, _OWN = 200, 120
_TOKENS = (8, 32)
# Conversations that the cache has room for.
_KEPT = 4
_LEAST_SECONDS = 3.0
_LEAST_GROWTH, _SHARE = 16 << 20, 0.02


@dataclass(slots=True)
class _Seen:
    """What the clients saw."""

    ends: Counter[str] = field(default_factory=Counter[str])
    agreement: Agreement = field(default_factory=Agreement)
    tokens: int = 0
    errors: list[str] = field(default_factory=list[str])
    odd_parts: int = 0


async def run(section: Section) -> None:
    """Load once more with a small cache, learn every answer alone, then let clients loose in two halves."""
    subject = section.subject
    await _load(section)
    wanted = [_wanted(section, index) for index in range(_PROMPTS)]
    alone = await ask_each(subject.handle, wanted)
    bound = await _bound(section, wanted, alone)
    # What is left of the time would be nothing where the load was slow.
    seconds = min(section.churn_seconds, max(_LEAST_SECONDS, section.allowance.left))
    section.say(f"{_CLIENTS} clients for {seconds:.0f} s")
    seen = _Seen()
    await _churn(section, wanted, alone, bound, seconds / 2, seen, salt=0)
    middle = await subject.on_engine(_held)
    await _churn(section, wanted, alone, bound, seconds / 2, seen, salt=1)
    _tell(section, seen, bound, seconds, middle, await subject.on_engine(_held))


def _tell(
    section: Section, seen: _Seen, bound: Bound, seconds: float, middle: tuple[int, int], end: tuple[int, int]
) -> None:
    ends = ", ".join(f"{count} {what}" for what, count in sorted(seen.ends.items()))
    failed = float(len(seen.errors))
    section.require(
        "errors", failed, right=not failed and section.subject.handle.alive, note=next(iter(seen.errors), ends)
    )
    found = seen.agreement
    whole = found.equal + found.within + found.beyond
    right = whole > 0 and found.right
    section.require(
        "answers against alone", float(found.equal), f"of {whole} equal", right=right, note=found.told(bound)
    )
    if seen.odd_parts:
        section.figure(
            "answers cut short that begin otherwise than alone", float(seen.odd_parts), "", "not compared further"
        )
    grown = end[0] - middle[0]
    allowed = max(_LEAST_GROWTH, int(_SHARE * middle[0]))
    section.require(
        "growth of MLX's memory in the second half, cache aside",
        grown / (1 << 20),
        "MiB",
        right=grown <= allowed,
        note=f"of {middle[0] / (1 << 20):.0f} MiB; bound {allowed / (1 << 20):.0f} MiB",
    )
    section.figure(
        "growth of the process", (end[1] - middle[1]) / (1 << 20), "MiB", f"of {middle[1] / (1 << 20):.0f} MiB"
    )
    queue = section.subject.handle.info().queue
    cached = 100 * queue["cached_tokens"] / max(1.0, queue["prompt_tokens"])
    section.figure(
        "tokens",
        seen.tokens / seconds,
        "tok/s",
        f"{cached:.0f} % of prompt tokens from the cache, {queue['preemptions']:.0f} preemptions",
    )


async def _load(section: Section) -> None:
    """The same model with a cache for a few of the prompts."""
    subject = section.subject
    config = subject.handle.model_config()
    assert config is not None
    room = _KEPT * (_PREFIX + _OWN + _TOKENS[1]) * subject.facts.kv_bytes_a_token
    # Fewer rows than clients: some wait, and some of those longer than their deadline.
    engine = replace(config.engine, max_rows=_ROWS)
    await subject.load(replace(config, engine=engine, cache=CacheConfig(max_bytes=room)))


def _wanted(section: Section, index: int) -> GenerationRequest:
    """Prompt `index` with its settings; alone and cold as it stands here."""
    subject = section.subject
    prefix = subject.text(_PREFIX, f"prefix {index % _PREFIXES}")
    own = subject.text(max(8, _OWN * (index + 1) // _PROMPTS), f"own {index}")
    sampling = Sampling(temperature=0.8, top_p=0.95, top_k=40, seed=index) if index % 2 else None
    tokens = _TOKENS[0] + (_TOKENS[1] - _TOKENS[0]) * (index * 7 % _PROMPTS) // _PROMPTS
    return request(f"churn-{index}", f"{prefix} {own}", tokens, sampling=sampling, logprobs=5, stored=False)


async def _bound(section: Section, wanted: Sequence[GenerationRequest], alone: Sequence[Asked]) -> Bound:
    """From the logits of the longest answer."""
    index = max(range(len(alone)), key=lambda index: len(alone[index].logprobs))
    return bound_of(section, await run_through(section, [wanted[index]], [alone[index]]))


async def _churn(
    section: Section,
    wanted: Sequence[GenerationRequest],
    alone: Sequence[Asked],
    bound: Bound,
    seconds: float,
    seen: _Seen,
    *,
    salt: int,
) -> None:
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        drawn = random.Random(1000 * salt + number)
        while time.monotonic() < end and not seen.errors:
            index = drawn.randrange(len(wanted))
            fate = drawn.random()
            asked = replace(wanted[index], cache_read_only=drawn.random() < 0.1)
            cancel = drawn.randrange(1, 5) if fate < 0.15 else None
            if fate > 0.9:
                asked = replace(asked, deadline=time.monotonic() + drawn.choice((0.01, 0.1, 0.5)))
            _look(seen, await ask(section.subject.handle, asked, cancel_after=cancel), alone[index], asked, bound)

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
    # What was cancelled may run for a step more.
    while section.subject.handle.alive and section.subject.handle.info().queue["in_flight"]:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _look(seen: _Seen, answer: Asked, alone: Asked, asked: GenerationRequest, bound: Bound) -> None:
    if answer.end is not None:
        seen.ends["whole"] += 1
        seen.tokens += answer.end.usage.completion_tokens
        seen.agreement += agreement(answer, alone, bound, greedy=asked.sampling.temperature == 0.0)
        return
    if isinstance(answer.error, DeadlineExceeded) and asked.deadline is not None:
        seen.ends["past their deadline"] += 1
    elif answer.error is None or isinstance(answer.error, RequestCancelled):
        seen.ends["cancelled"] += 1
    else:
        seen.errors.append(f"{type(answer.error).__name__}: {answer.error}"[:200])
    seen.odd_parts += not alone.text.startswith(answer.text)


def _held(session: Session) -> tuple[int, int]:
    """Bytes that MLX holds beside the prompt cache, and bytes of the process."""
    mx.synchronize()
    mx.clear_cache()
    return mx.get_active_memory() - session.prefix.nbytes, resident_bytes()
