import logging
import shutil
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from backend.check.counting import launches_of
from backend.engine.sampling import noise
from backend.engine.sampling.device import noise as device_noise
from backend.engine.sampling.device.kernels import Kernels
from backend.engine.sampling.device.restrict import head
from backend.engine.sampling.device.restrict import restricted as device_restricted
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.device.warm_up import KINDS, batches, warm_up
from backend.engine.sampling.host.restrict import restricted
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.noise import Purpose, key_of
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import NO_TOKEN, NOT_FINITE, NOTHING_ALLOWED
from backend.engine.waits import on_host
from tests.engine.sampling.building import EOS, MIXED, OnlyThese, lazy, random_logits, row
from tests.engine.sampling.host.test_restrict import ids_of
from tests.engine.sampling.reference import by_rank

device = DeviceSampler()
host = HostSampler()

MORE: tuple[dict[str, Any], ...] = (
    *MIXED,
    {"temperature": 1.0, "top_k": 1500, "top_p": 0.99},
    {"temperature": 1.0, "top_k": 3, "top_p": 0.6, "min_p": 0.1, "xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"temperature": 0.001},
    {"temperature": 0.7, "penalty_window": 2, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
    {"temperature": 1.0, "penalty_window": 0, "presence_penalty": 1.0},
)


@pytest.mark.parametrize("seed", [0, -5, 2**63 - 1])
def test_the_devices_noise_has_the_hosts_bits(seed: int) -> None:
    ids = np.arange(70_000, dtype=np.uint32)
    key = key_of(seed, 12, Purpose.TOKEN)
    low, high = (mx.array([[word]], mx.uint32) for word in key)
    theirs = device_noise.hashed(mx.array(ids)[None], low, high)
    np.testing.assert_array_equal(np.asarray(theirs)[0], noise.hashed(ids, key))
    ours = noise.gumbel(ids, key)
    # The least noise is the least exact in float32, and decides nothing.
    decides = ours > -2.0
    found = np.asarray(device_noise.gumbel(mx.array(ids)[None], low, high))[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[decides], ours[decides], rtol=1e-5, atol=1e-5)


def test_the_devices_noise_is_finite_where_the_bits_are_all_ones_or_all_zeros() -> None:
    # Index 0 under a low word of 0 hashes to the finaliser of the high word alone.
    for high, bits in ((0x331DA083, 0xFFFFFFFF), (0, 0)):
        ids = mx.zeros((1, 1), mx.uint32)
        words = mx.zeros((1, 1), mx.uint32), mx.array([[high]], mx.uint32)
        assert device_noise.hashed(ids, *words).item() == bits
        assert np.isfinite(device_noise.gumbel(ids, *words).item())
        assert np.isfinite(noise.gumbel(np.zeros(1, np.int64), (0, high))).all()


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("step", [0.0, 0.25])
def test_the_device_leaves_the_candidates_that_the_host_leaves(spread: float, step: float) -> None:
    several = [one for one in MORE if one["temperature"] > 0.0]
    several += [{"temperature": 1.0, "min_p": 1e-9}, {"temperature": 1.0, "top_p": 0.5, "top_k": 2000}]
    rows = [row(seed=n, **one) for n, one in enumerate(several)]
    logits = random_logits(len(rows), 3000, spread=spread)
    logits = (np.round(logits / step) * step).astype(np.float32) if step else logits
    logits[:, 100:1500:2] = -np.inf
    left = np.asarray(device_restricted(mx.array(logits), rows, Kernels(fused=False))) > -np.inf
    for index, one in enumerate(rows):
        expected = ids_of(restricted(logits[index], logits[index].max(), one))
        # Both round; without ties a nucleus' last of many tokens may differ.
        assert len(set(np.flatnonzero(left[index]).tolist()) ^ set(expected)) <= (
            0 if step or one.sampling.top_k else 2
        )


@pytest.mark.parametrize("vocab", [6, 300, 2000, 32_000])
def test_the_device_draws_what_the_host_draws(vocab: int) -> None:
    def fresh() -> list[RowSampling]:
        return [row([2, 3, 3], seed=n, top_logprobs=[None, 0, 4][n % 3], **MORE[n % len(MORE)]) for n in range(26)]

    on_device, on_host = fresh(), fresh()
    for step in range(4):
        logits = lazy(random_logits(len(on_host), vocab, seed=step))
        theirs = device.sample_lazy(logits, on_device).collect()
        ours = host.sample(logits, on_host)
        assert theirs.tokens == ours.tokens
        assert theirs.errors == ours.errors == {}
        for one, other in zip(theirs.logprobs, ours.logprobs, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert one.top_ids == other.top_ids
                np.testing.assert_allclose((one.chosen, *one.top), (other.chosen, *other.top), atol=1e-4)
        for token, one, other in zip(ours.tokens, on_device, on_host, strict=True):
            one.accept(token)
            other.accept(token)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles kernels for a CPU with g++")
def test_fused_kernels_give_the_same_bits() -> None:
    mx.enable_compile()
    fused = DeviceSampler(fused=True)
    for vocab, rows in ((300, 1), (2000, 13), (32_000, 5)):
        several = [MORE[index % len(MORE)] for index in range(rows)]
        words = []
        for sampler in (device, fused):
            fresh = [
                row([2, 3, 3], seed=n, top_logprobs=n % 3 or None, constraint=OnlyThese([*range(90)], vocab), **one)
                for n, one in enumerate(several)
            ]
            words.append(np.asarray(on_host(sampler.sample_lazy(lazy(random_logits(rows, vocab)), fresh).words)))
        np.testing.assert_array_equal(*words)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_running_ahead_of_the_host_changes_no_token(ahead: int) -> None:
    # Few tokens and strong penalties, so that a history that lags by one shows at once.
    settings: list[dict[str, Any]] = [*MORE, {"temperature": 1.0, "frequency_penalty": 2.0, "penalty_window": 3}]
    settings = [{**one, "logit_bias": ()} for one in settings]

    def answers(ahead: int) -> list[list[int]]:
        rows = [row([2, 3, 3, 4], seed=n, **one) for n, one in enumerate(settings)]
        waiting = []
        for step in range(12):
            waiting.append(device.sample_lazy(lazy(random_logits(len(rows), 8, seed=step, spread=0.5)), rows))
            if len(waiting) > ahead:
                accept(waiting.pop(0), rows)
        for sample in waiting:
            accept(sample, rows)
        assert not any(one.drawn_ahead for one in rows)
        return collected.pop(id(rows))

    collected: dict[int, list[list[int]]] = {}

    def accept(sample: Any, rows: list[RowSampling]) -> None:
        tokens = sample.collect().tokens
        collected.setdefault(id(rows), []).append(tokens)
        for token, one in zip(tokens, rows, strict=True):
            one.accept(token)

    assert answers(ahead) == answers(0)


def test_nothing_is_evaluated_before_it_is_collected() -> None:
    vocab = 30_000
    given = mx.array(random_logits(len(MORE), vocab))
    mx.eval(given)
    # Constants of this batch are kept from the first draw on.
    device.sample_lazy(given, [row([1, 2], top_logprobs=2, **one) for one in MORE]).collect()
    rows = [row([1, 2], seed=n, top_logprobs=2, **one) for n, one in enumerate(MORE)]
    before = mx.get_active_memory()
    logits = given + 1.0
    sample = device.sample_lazy(logits, rows)
    one_row = vocab * 4
    assert mx.get_active_memory() - before < one_row
    assert len(sample.collect().tokens) == len(MORE)
    assert mx.get_active_memory() - before > one_row


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_their_row_alone(broken: float) -> None:
    logits = random_logits(len(MORE), 2000)
    rows = [row(seed=n, top_logprobs=1, **one) for n, one in enumerate(MORE)]
    expected = device.sample_lazy(lazy(logits), rows).collect()
    for bad in range(len(MORE)):
        damaged = logits.copy()
        damaged[bad, 1234] = broken
        rows = [row(seed=n, top_logprobs=1, **one) for n, one in enumerate(MORE)]
        lazy_sample = device.sample_lazy(lazy(damaged), rows)
        found = lazy_sample.collect()
        assert found.errors == {bad: NOT_FINITE}
        assert found.tokens[bad] == NO_TOKEN
        assert found.logprobs[bad] is None
        assert int(mx.max(lazy_sample.tokens)) < 2000
        assert found.tokens[:bad] + found.tokens[bad + 1 :] == expected.tokens[:bad] + expected.tokens[bad + 1 :]


def test_rows_that_nothing_is_allowed_for_or_whose_grammar_failed_fail_alone() -> None:
    failed = OnlyThese([2], 64)
    failed.error = "too many items"
    rows = [
        row(constraint=OnlyThese([EOS], 64), ignore_eos=True, temperature=1.0),
        row(constraint=OnlyThese([9, 63], 64), temperature=1.0),
        row(constraint=failed),
        row(),
    ]
    logits = random_logits(4, 64)
    found = device.sample_lazy(lazy(logits), rows).collect()
    assert found.errors == {0: NOTHING_ALLOWED, 2: "too many items"}
    assert found.tokens[1] in (9, 63)
    assert found.tokens[3] == int(logits[3].argmax())


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize(("vocab", "k"), [(10, 10), (1000, 1), (1000, 40), (4097, 300), (4097, 20)])
def test_the_head_is_that_of_a_full_sort(vocab: int, k: int, step: float) -> None:
    logits = random_logits(3, vocab)
    logits = (np.round(logits / step) * step).astype(np.float32) if step else logits
    values, ids = (np.asarray(array) for array in head(mx.array(logits), k, Kernels(fused=False)))
    for index in range(3):
        expected = by_rank(logits[index].astype(np.float64), list(range(vocab)))[:k]
        assert ids[index].tolist() == expected
        np.testing.assert_array_equal(values[index], logits[index, expected])


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_logits_with_many_ties_draw_as_on_the_host(dtype: mx.Dtype) -> None:
    rows = [row(seed=n, **one) for n, one in enumerate(MORE)]
    again = [row(seed=n, **one) for n, one in enumerate(MORE)]
    logits = lazy(random_logits(len(MORE), 8000), dtype)
    assert device.sample_lazy(logits, rows).collect().tokens == host.sample(logits, again).tokens


@pytest.mark.parametrize("vocab", [6, 300, 5000])
def test_warming_up_draws_every_kind_and_says_how_far_it_is(vocab: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    warm_up(DeviceSampler(), vocab, mx.bfloat16)
    told = [record.getMessage() for record in caplog.records]
    for kind in (*KINDS, "logprobs", "grammar"):
        assert sum(f"kind={kind} " in line for line in told) == 2
    assert sum("sampler_warm_up" in line for line in told) == 2


def test_after_warming_up_a_draw_compiles_nothing() -> None:
    # Each kernel by its name in the graph, which says its operations.
    def kernels(sampler: DeviceSampler, rows: list[RowSampling]) -> set[str]:
        logits = lazy(random_logits(len(rows), 5000))
        names = launches_of(sampler.sample_lazy(logits, rows).arrays())
        return {name for name in names if name.startswith("Compiled")}

    sampler = DeviceSampler(fused=True)
    warm: set[str] = set()
    for size in (1, 3):
        for _, rows in batches(5000, size):
            warm |= kernels(sampler, rows)
    for one in MORE:
        assert kernels(sampler, [row([1, 2], **one)]) <= warm
    several = [row([1, 2], seed=n, top_logprobs=n % 3 or None, **one) for n, one in enumerate(MORE)]
    assert kernels(sampler, several) <= warm
