"""What sampling a batch costs a step: ours on the host and on the device, beside mlx-lm's samplers row by row.

    python -m benchmarks.sampling [--rounds 30]

The samplers take turns in one run on the same evaluated logits, so that other load hits all alike; figures are
medians and bests of milliseconds a step. "greedy" is temperature 0 in every row; "mixed" is eight different
settings, penalties and seeds, repeated for more rows; "peaked" logits look like a language model's, "flat" ones
are the worst case of top-p and typical-p. mlx-lm runs as its `GenerationBatch` does: logprobs of the whole batch,
then each row's processors and sampler. It has no typical-p and no seed a row, and does less there.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from backend.core.request import Sampling
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from benchmarks.report import Report, arguments, parse

EOS = 2
HISTORY = 512

MIXED = (
    Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.05, seed=1),
    Sampling(temperature=1.0, seed=2),
    Sampling(temperature=0.8, top_p=0.9, seed=3),
    Sampling(temperature=1.2, min_p=0.1, seed=4),
    Sampling(temperature=0.9, top_k=100, repetition_penalty=1.1, seed=5),
    Sampling(temperature=0.6, top_k=20, top_p=0.8, presence_penalty=0.5, frequency_penalty=0.2, seed=6),
    Sampling(temperature=0.8, top_k=50, logit_bias=((5, 2.0), (6, -100.0)), ignore_eos=True, seed=7),
    Sampling(temperature=1.0, top_k=40, xtc_probability=0.5, seed=8),
)

Step = Callable[[], object]


def logits_of(rows: int, vocab: int, shape: str) -> mx.array:
    """Float32 `[rows, vocab]`, evaluated."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((rows, vocab)).astype(np.float32)
    if shape == "peaked":
        values *= 2.0
        for row in range(rows):
            top = generator.choice(vocab, 50, replace=False)
            values[row, top] = np.linspace(18.0, 8.0, 50)
    else:
        values *= 0.3
    logits = mx.array(values)
    mx.eval(logits)
    return logits


def ours_rows(settings: tuple[Sampling, ...], vocab: int) -> list[RowSampling]:
    prompt = np.random.default_rng(1).integers(0, vocab, HISTORY).astype(np.int32)
    return [RowSampling(one, prompt=prompt, eos_ids=frozenset([EOS]), top_logprobs=None) for one in settings]


def host_step(logits: mx.array, settings: tuple[Sampling, ...]) -> Step:
    sampler, rows = HostSampler(), ours_rows(settings, logits.shape[1])

    def step() -> None:
        for row, token in zip(rows, sampler.sample(logits, rows).tokens, strict=True):
            row.accept(token)

    return step


def device_step(logits: mx.array, settings: tuple[Sampling, ...]) -> Step:
    sampler, rows = DeviceSampler(), ours_rows(settings, logits.shape[1])

    def step() -> None:
        for row, token in zip(rows, sampler.sample_lazy(logits, rows).collect().tokens, strict=True):
            row.accept(token)

    return step


def mlx_lm_step(logits: mx.array, settings: tuple[Sampling, ...]) -> Step:
    """`GenerationBatch._step` from the logits on."""
    vocab = logits.shape[1]
    history = mx.array(np.random.default_rng(1).integers(0, vocab, HISTORY))
    greedy = all(one.temperature == 0.0 for one in settings)
    samplers = [
        make_sampler(
            one.temperature,
            top_p=one.top_p,
            min_p=one.min_p,
            top_k=one.top_k or 0,
            xtc_probability=one.xtc_probability,
            xtc_threshold=one.xtc_threshold,
        )
        for one in settings
    ]
    processors = [
        make_logits_processors(
            dict(one.logit_bias) or None,
            None if one.repetition_penalty == 1.0 else one.repetition_penalty,
            one.penalty_window,
            one.presence_penalty or None,
            one.penalty_window,
            one.frequency_penalty or None,
            one.penalty_window,
        )
        for one in settings
    ]

    def step() -> None:
        left = logits
        if any(processors):
            parts = []
            for index, row in enumerate(processors):
                part = left[index : index + 1]
                for processor in row:
                    part = processor(history, part)
                parts.append(part)
            left = mx.concatenate(parts)
        logprobs = left - mx.logsumexp(left, axis=-1, keepdims=True)
        if greedy:
            tokens = samplers[0](logprobs)
        else:
            tokens = mx.concatenate([s(logprobs[e : e + 1]) for e, s in enumerate(samplers)])
        tokens.tolist()

    return step


STEPS = {"host": host_step, "device": device_step, "mlx-lm": mlx_lm_step}


def measure(vocab: int, rows: int, shape: str, kind: str, rounds: int) -> list[tuple[float, float]]:
    """Median and best milliseconds of the three samplers, which take turns, `rounds` times each."""
    logits = logits_of(rows, vocab, shape)
    chosen = MIXED if kind == "mixed" else (Sampling(),)
    settings = tuple(chosen[index % len(chosen)] for index in range(rows))
    steps = {name: make(logits, settings) for name, make in STEPS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - start) * 1e3)
    return [(statistics.median(taken[2:]), min(taken[2:])) for taken in times.values()]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parse(parser, rounds=3)
    report = Report(options)
    report.note(f"device {mx.default_device()}, medians and bests of {options.rounds} steps, ms")
    rows: list[list[object]] = []
    for vocab, count in itertools.product((32_000, 152_064), (8, 16)):
        for shape, kind in (("peaked", "greedy"), ("peaked", "mixed"), ("flat", "mixed")):
            times = measure(vocab, count, shape, kind, options.rounds)
            rows.append([vocab, count, shape, kind, *(ms for taken in times for ms in taken)])
    columns = [heading for name in STEPS for heading in (name, "best")]
    report.table(["vocabulary", "rows", "logits", "settings", *columns], rows)


if __name__ == "__main__":
    main()
