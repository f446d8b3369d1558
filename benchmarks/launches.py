"""Launches and waits of a decode step from the logits on: the batch for GPUs beside mlx-lm's `GenerationBatch`.

    python -m benchmarks.launches

Both drive the same model, a table of logits that is looked up; its own launches are taken off.
`backend.check.counting` says what counts as a launch and what as a wait; `mlx-worker check` counts both with a real
model.

mlx-lm has no typical-p and no seeds a row, and does less there; a batch in which rows differ calls its samplers row
by row. On a CPU MLX fuses with a C++ compiler, which takes seconds the first time.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from backend.check.counting import Counts, counting, launches_of
from backend.check.driving import mlx_lm_batch
from backend.core.request import Sampling
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.row import Row
from backend.engine.batching.standing import Standing
from backend.engine.inbox import Submit
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.row_sampling import RowSampling
from benchmarks.report import Report, arguments, parse
from benchmarks.sampling import EOS, HISTORY, MIXED

VOCAB = 32_000

KINDS: dict[str, tuple[Sampling, ...]] = {
    "greedy": (Sampling(),),
    "temperature": (Sampling(temperature=0.8, seed=1),),
    "top-k and top-p": (Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=1),),
    "top-p and min-p": (Sampling(temperature=0.8, top_p=0.9, min_p=0.05, seed=1),),
    "repetition penalty": (Sampling(temperature=0.8, repetition_penalty=1.1, seed=1),),
    "eight different": MIXED,
}


def table_model(vocab: int = VOCAB) -> Callable[..., mx.array]:
    """A model that looks its logits up by the last token's id modulo 8."""
    values = np.random.default_rng(0).standard_normal((8, vocab)).astype(np.float32) * 3.0
    table = mx.array(values)
    return lambda tokens, cache: table[tokens % 8]


def our_step(settings: Sequence[Sampling], vocab: int = VOCAB, *, fused: bool = True) -> Callable[[], object]:
    """A step of the batch for GPUs."""
    prompt = np.random.default_rng(1).integers(0, vocab, HISTORY).astype(np.int32)
    batch = DeviceBatch(table_model(vocab), DeviceSampler(fused=fused), mergeable=True)
    # Of a submitted request the batch knows the sampling alone.
    submit = cast(Submit, None)
    rows = [RowSampling(one, prompt=prompt, eos_ids=frozenset([EOS]), top_logprobs=None) for one in settings]
    batch.join([Row(submit, sampling, prompt, Standing.of(0.0, 0), caches=[]) for sampling in rows])
    return batch.step


def mlx_lm_step(settings: Sequence[Sampling], vocab: int = VOCAB) -> Callable[[], object]:
    """A step of mlx-lm's batch. Rows of equal settings share a sampler, as its server has them."""
    prompt = np.random.default_rng(1).integers(0, vocab, HISTORY).tolist()
    samplers = {
        one: make_sampler(
            one.temperature,
            top_p=one.top_p,
            min_p=one.min_p,
            top_k=one.top_k or 0,
            xtc_probability=one.xtc_probability,
            xtc_threshold=one.xtc_threshold,
        )
        for one in settings
    }
    batch = mlx_lm_batch(
        table_model(vocab),
        caches=[],
        inputs=mx.zeros(len(settings), mx.uint32),
        tokens=prompt,
        samplers=[samplers[one] for one in settings],
        processors=[_processors(one) for one in settings],
    )
    return batch.next


def _processors(one: Sampling) -> list[Any]:
    return make_logits_processors(
        dict(one.logit_bias) or None,
        None if one.repetition_penalty == 1.0 else one.repetition_penalty,
        one.penalty_window,
        one.presence_penalty or None,
        one.penalty_window,
        one.frequency_penalty or None,
        one.penalty_window,
    )


def counts_of(step: Callable[[], object]) -> Counts:
    """Of one step, once both the pipeline and what is kept from step to step have filled."""
    for _ in range(3):
        step()
    with counting() as counts:
        step()
    return counts


def main() -> None:
    options = parse(arguments(__doc__))
    report = Report(options)
    report.note(
        f"device {mx.default_device()}, vocabulary {VOCAB}; launches of one step less the model's, and its waits"
    )
    table: list[list[object]] = []
    for kind, settings in KINDS.items():
        for rows in (1, 8):
            chosen = [settings[index % len(settings)] for index in range(rows)]
            if rows == 1 and len(settings) > 1:
                continue
            ours, loose, theirs = (
                counts_of(step) for step in (our_step(chosen), our_step(chosen, fused=False), mlx_lm_step(chosen))
            )
            model = launches_of(table_model()(mx.array([[0]] * rows), None)).total()
            launches = [counts.launches.total() - model for counts in (ours, loose, theirs)]
            table.append([kind, rows, *launches, ours.waits, theirs.waits])
    report.table(["settings", "rows", "ours", "not fused", "mlx-lm", "our waits", "mlx-lm's waits"], table)


if __name__ == "__main__":
    main()
