"""Every kind of draw once at the load, so that no kernel is compiled inside a first request."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.core.logline import logline
from backend.core.request import Sampling
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.row_sampling import RowSampling

log = logging.getLogger(__name__)

_PENALTIES = Sampling(temperature=1.0, repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1)

# A kind is what takes kernels of its own; top-k is far below the vocabulary or near it.
KINDS: dict[str, Sampling] = {
    "greedy": Sampling(),
    "temperature": Sampling(temperature=1.0),
    "top_k": Sampling(temperature=1.0, top_k=40),
    "top_k_top_p_min_p": Sampling(temperature=1.0, top_k=40, top_p=0.95, min_p=0.05),
    "large_top_k": Sampling(temperature=1.0, top_k=4096),
    "top_p": Sampling(temperature=1.0, top_p=0.95),
    "min_p": Sampling(temperature=1.0, min_p=0.05),
    "typical_p": Sampling(temperature=1.0, typical_p=0.95),
    "xtc": Sampling(temperature=1.0, xtc_probability=1.0),
    "penalties": _PENALTIES,
    "logit_bias": Sampling(logit_bias=((1, 1.0),)),
    "ignore_eos": Sampling(ignore_eos=True),
}


@dataclass(slots=True)
class _AllowsAll:
    """A grammar in which everything may follow."""

    vocab: int
    finished: bool = False
    error: str | None = None

    def mask(self) -> NDArray[np.uint32] | None:
        return np.full(-(-self.vocab // 32), 0xFFFFFFFF, np.uint32)

    def advance(self, token: int) -> None:
        pass

    def forced(self, most: int) -> Sequence[int]:
        return ()

    def valid(self, tokens: Sequence[int]) -> int:
        return len(tokens)


def warm_up(
    sampler: DeviceSampler,
    vocab: int,
    dtype: mx.Dtype,
    *,
    batch_sizes: tuple[int, ...] = (1, 3),
    check: Callable[[], None] = lambda: None,
) -> None:
    """Draw with settings of each kind, alone and together, from logits `[rows, vocab]` of the model's dtype.

    More rows take no further kernels. Raises what a kernel raises that does not compile.

    Args:
        check: Called before each; what it raises ends the warm-up.
    """
    started = time.monotonic()
    for size in batch_sizes:
        for name, rows in batches(vocab, size):
            check()
            begun = time.monotonic()
            logits = mx.array(np.linspace(0.0, 1.0, vocab, dtype=np.float32)[None].repeat(size, 0)).astype(dtype)
            sampler.sample_lazy(logits, rows).collect()
            log.debug(logline("warmed_up", kind=name, rows=size, seconds=round(time.monotonic() - begun, 3)))
        log.info(logline("sampler_warm_up", rows=size, seconds=round(time.monotonic() - started, 3)))


def batches(vocab: int, size: int) -> Iterator[tuple[str, list[RowSampling]]]:
    """Batches of one kind each, then of greedy rows beside the kind, where a part of the batch is worked on."""
    greedy = _row(Sampling(), vocab)
    for name, sampling in KINDS.items():
        yield name, [_row(sampling, vocab) for _ in range(size)]
        if size > 1:
            yield f"{name}_beside_greedy", [greedy, *(_row(sampling, vocab) for _ in range(size - 1))]
    yield "logprobs", [_row(Sampling(), vocab, top_logprobs=5) for _ in range(size)]
    yield "grammar", [_row(Sampling(), vocab, grammar=True) for _ in range(size)]


def _row(sampling: Sampling, vocab: int, *, top_logprobs: int | None = None, grammar: bool = False) -> RowSampling:
    return RowSampling(
        sampling.within(vocab),
        prompt=np.arange(min(vocab, 4), dtype=np.int32),
        eos_ids=frozenset([0]),
        top_logprobs=top_logprobs,
        constraint=_AllowsAll(vocab) if grammar else None,
    )
