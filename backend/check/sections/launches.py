"""Launches and waits a token, of the whole model: the engine's batch beside mlx-lm's."""

from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch
from mlx_lm.sample_utils import greedy_sampler, make_sampler

from backend.check.asking import SAMPLED
from backend.check.counting import Counts, counting
from backend.check.driving import batch_of, copied, merged, mlx_lm_batch, prefilled, random_tokens, row
from backend.check.section import Section
from backend.core.request import Sampling
from backend.engine.batching.session import Session

_LENGTH = 64


async def run(section: Section) -> None:
    """Count one step of each kind."""
    counts = (1,) if section.subject.facts.serial_reason else (1, 8)
    for kind, sampling in (("greedy", None), ("sampled", SAMPLED)):
        for count in counts:
            ours, theirs = await section.subject.on_engine(partial(_counted, sampling=sampling, count=count))
            name = f"{count} row{'s' * (count > 1)}, {kind}"
            section.figure(
                f"launches a step, {name}",
                float(ours.launches.total()),
                "",
                f"mlx-lm's GenerationBatch: {theirs.launches.total()}",
                ours=dict(ours.launches),
                theirs=dict(theirs.launches),
            )
            section.judge(
                f"waits a step, {name}",
                float(ours.waits),
                "",
                good=ours.waits <= max(1, theirs.waits),
                note=f"mlx-lm's: {theirs.waits}; mark: no more",
            )


def _counted(session: Session, sampling: Sampling | None, count: int) -> tuple[Counts, Counts]:
    tokens = random_tokens(session, _LENGTH + 1, 31)
    caches = prefilled(session, tokens[:-1])
    batch = batch_of(session, [row(session, tokens, caches, sampling) for _ in range(count)])
    mx.synchronize()
    with counting() as ours:
        batch.step()
    theirs = _mlx_lm(session, tokens.tolist(), caches, sampling, count)
    for _ in range(3):
        theirs.next()
    with counting() as counted:
        theirs.next()
    mx.synchronize()
    return ours, counted


def _mlx_lm(
    session: Session, tokens: list[int], caches: list[Any], sampling: Sampling | None, count: int
) -> GenerationBatch:
    sampler: Any = greedy_sampler
    if sampling is not None:
        sampler = make_sampler(sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k or 0)
    return mlx_lm_batch(
        session.loaded.model,
        caches=merged([copied(caches) for _ in range(count)]),
        inputs=mx.array([tokens[-1]] * count, mx.uint32),
        tokens=tokens,
        samplers=[sampler] * count,
        processors=[[] for _ in range(count)],
    )
