"""The prompt cache: what an insert and a fetch take, and that what comes back is what was put in."""

from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np

from backend.check.driving import evaluate, prefilled, random_tokens, seconds_of
from backend.check.section import Section
from backend.engine.batching.session import Session

_LENGTHS = (1000, 8000)
_ROUNDS = 5
# What a token of the long prompt may cost over one of the short, and seconds that its prefill may take.
_MOST_GROWTH, _MOST_PREFILL_S = 2.0, 120.0


async def run(section: Section) -> None:
    """Put in and take out; each round is another prompt of the same KV."""
    facts = section.subject.facts
    if facts.uncached_reason:
        section.skip("prompt cache", facts.uncached_reason)
        return
    shortest = 0.0
    for length in _LENGTHS:
        size = length * facts.kv_bytes_a_token
        if length >= facts.context_length or 4 * size > facts.budget_bytes:
            section.skip(f"{length} tokens", "no room in the context or in the KV budget")
            continue
        if shortest and _MOST_GROWTH * shortest * length / _LENGTHS[0] > min(_MOST_PREFILL_S, section.allowance.left):
            section.skip(f"{length} tokens", "no time for their prefill")
            continue
        prefill, inserts, fetches, right = await section.subject.on_engine(
            partial(_measure, section=section, length=length)
        )
        shortest = shortest or prefill
        insert, fetch = median(inserts), median(fetches)
        mib = size / (1 << 20)
        section.figure(f"insert of {length} tokens", insert * 1e3, "ms", f"{mib:.0f} MiB", rounds=inserts)
        section.judge(
            f"fetch of {length} tokens",
            fetch * 1e3,
            "ms",
            good=fetch < prefill,
            note=f"{prefill / fetch:.0f} times faster than their prefill; mark: faster",
            rounds=fetches,
        )
        section.require(f"what {length} tokens come back as", "the same" if right else "other", right=right)


def _measure(session: Session, section: Section, length: int) -> tuple[float, list[float], list[float], bool]:
    tokens = random_tokens(session, length, 11)
    made: list[list[Any]] = []
    prefill = seconds_of(lambda: made.append(prefilled(session, tokens)))
    (caches,) = made
    inserts: list[float] = []
    fetches: list[float] = []
    right = True
    for round_ in section.allowance.rounds(2, _ROUNDS):
        # The same KV under other names: only the tokens tell prompts apart.
        named = np.roll(tokens, 17 * round_ + 1)
        inserts.append(seconds_of(lambda named=named: session.prefix.insert(named, caches)))
        found: list[object] = []

        def fetch(named: np.ndarray = named, found: list[object] = found) -> None:
            reused = session.prefix.fetch(np.append(named, named[:1]))
            if reused.caches is not None:
                evaluate(reused.caches)
            found.append(reused)

        fetches.append(seconds_of(fetch))
        reused = session.prefix.fetch(np.append(named, named[:1]))
        right = right and reused.length == length and reused.caches is not None and _same(caches, reused.caches)
    session.prefix.close()  # drops what is stored, and no more
    return prefill, inserts, fetches, right


def _same(ours: list[object], theirs: list[object]) -> bool:
    """Whether the layers that keep every token hold the same; whoever compares states does so by answers."""
    for mine, other in zip(ours, theirs, strict=True):
        keys, others = getattr(mine, "keys", None), getattr(other, "keys", None)
        if not isinstance(keys, mx.array) or not isinstance(others, mx.array):
            continue
        count = min(getattr(mine, "offset", 0), keys.shape[2], others.shape[2])
        if not mx.array_equal(keys[..., :count, :], others[..., :count, :]).item():
            return False
    return True
