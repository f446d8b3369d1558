"""Engine thread only: rows and batches that are driven by hand, to time one thing at a time."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.generate import GenerationBatch, StopSequences
from numpy.typing import NDArray

from backend.core.request import Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.batching.standing import Standing
from backend.engine.inbox import Submit
from backend.engine.kv import row_caches
from backend.engine.sampling.row_sampling import RowSampling

_CHUNK = 1024
_WARM_STEPS = 3


def random_tokens(session: Session, count: int, seed: int) -> NDArray[np.int32]:
    """Token ids that end no answer, `[count]`."""
    drawn = np.random.default_rng(seed).integers(1, session.loaded.vocab_size, count).astype(np.int32)
    # One that ends nothing and that every vocabulary has.
    plain = next(token for token in range(session.loaded.vocab_size) if token not in session.eos_ids)
    drawn[np.isin(drawn, list(session.eos_ids))] = plain
    return drawn


def evaluate(caches: Sequence[Any]) -> None:
    """Compute the caches now."""
    mx.eval([cache.state for cache in caches])


def prefilled(session: Session, tokens: NDArray[np.int32]) -> list[Any]:
    """Caches of one row that holds these tokens, evaluated."""
    caches = session.loaded.new_cache()
    for start in range(0, len(tokens), _CHUNK):
        session.loaded.model(mx.array(tokens[start : start + _CHUNK])[None], cache=caches)
        evaluate(caches)
    return caches


def copied(caches: Sequence[Any]) -> list[Any]:
    """Caches that may change without those given."""
    return [row_caches.copied(cache) for cache in caches]


def merged(caches: Sequence[list[Any]]) -> list[Any]:
    """Caches of several rows as those of one batch; of one row as they are, which is mlx-lm's single-stream path."""
    if len(caches) == 1:
        return caches[0]
    return [layer[0].merge(list(layer)) for layer in zip(*caches, strict=True)]


def row(session: Session, tokens: NDArray[np.int32], caches: Sequence[Any], sampling: Sampling | None = None) -> Row:
    """A row that holds all of `tokens` but the last, which its first step feeds; it takes copies of the caches."""
    drawn = RowSampling(sampling or Sampling(), prompt=tokens, eos_ids=session.eos_ids, top_logprobs=None)
    # Of a submitted request a batch knows the sampling alone.
    nowhere = Standing.of(0.0, 0)
    made = Row(cast(Submit, None), drawn, tokens, nowhere, caches=copied(caches), covered=len(tokens) - 1)
    made.last_token = int(tokens[-1])
    return made


def rows(session: Session, lengths: Sequence[int], sampling: Sampling | None = None) -> list[Row]:
    """Rows that hold so many random tokens each."""
    made: list[Row] = []
    for index, length in enumerate(lengths):
        tokens = random_tokens(session, length + 1, 17 + index)
        made.append(row(session, tokens, prefilled(session, tokens[:-1]), sampling))
    return made


def twins(session: Session, originals: Sequence[Row]) -> list[Row]:
    """The same rows once more, to join another batch; the originals must not have joined any."""
    made: list[Row] = []
    for one in originals:
        assert one.caches is not None
        made.append(row(session, one.feed, one.caches, one.sampling.sampling))
    return made


def batch_of(session: Session, members: Sequence[Row]) -> DecodeBatch:
    """A decode batch of the engine's own kind that these rows have joined and that has run."""
    batch = session.groups.new_batch()
    batch.join(members)
    for _ in range(_WARM_STEPS):
        batch.step()
    return batch


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call, the device's work before it not included."""
    mx.synchronize()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def steps(batches: Sequence[DecodeBatch], count: int) -> None:
    """So many steps of all batches, in turn as a session runs them, to the end of the device's work."""
    for _ in range(count):
        for batch in batches:
            batch.step()
    mx.synchronize()


def seconds_a_step(batches: Sequence[DecodeBatch], count: int) -> float:
    """Wall time of one step of all batches, over `count` of them."""
    return seconds_of(partial(steps, batches, count)) / count


def steps_within(seconds: float, one: float, *, most: int) -> int:
    """How many steps that take `one` second each are worth measuring."""
    return max(4, min(most, int(seconds / max(one, 1e-6))))


def mlx_lm_batch(
    model: Any,
    *,
    caches: list[Any],
    inputs: mx.array,
    tokens: Sequence[int],
    samplers: list[Any],
    processors: list[list[Any]],
) -> GenerationBatch:
    """mlx-lm's own batch of rows that have the same history and never end.

    Args:
        caches: Of all rows, merged; none for a model that needs none.
        inputs: What the first step feeds, `[rows]`.
        samplers, processors: Of each row.
    """
    count = len(samplers)
    return GenerationBatch(
        model=model,
        uids=list(range(count)),
        inputs=inputs,
        prompt_cache=caches,
        tokens=[list(tokens) for _ in range(count)],
        samplers=samplers,
        fallback_sampler=samplers[0],
        logits_processors=processors,
        stop_sequences=[StopSequences() for _ in range(count)],
        max_tokens=[1 << 30] * count,
    )


def medians(figures: Sequence[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [median(column) for column in zip(*figures, strict=True)]
