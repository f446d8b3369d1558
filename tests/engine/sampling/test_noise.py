import numpy as np
import pytest

from backend.engine.sampling.noise import Purpose, gumbel, hashed, key_of, uniform

SEEDS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32)


def chi_square(counts: np.ndarray, expected: np.ndarray | float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def limit(degrees: int) -> float:
    """What chi-square stays under but once in some 10**7 fair trials (Wilson and Hilferty's approximation)."""
    spread = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - spread + 5.2 * np.sqrt(spread)) ** 3


def test_all_integer_seeds_have_keys_of_their_own() -> None:
    keys = {key_of(seed, step, purpose) for seed in SEEDS for step in range(100) for purpose in Purpose}
    assert len(keys) == len(SEEDS) * 100 * len(Purpose)


@pytest.mark.parametrize("seed", SEEDS)
def test_hashed_bits_are_even_over_the_ids_of_one_step(seed: int) -> None:
    bits = hashed(np.arange(152_064), key_of(seed, 0, Purpose.TOKEN))
    for shift in (0, 8, 16, 24):
        counts = np.bincount((bits >> np.uint32(shift)) & np.uint32(255), minlength=256)
        assert chi_square(counts, len(bits) / 256) < limit(255)


@pytest.mark.slow
def test_hashed_bits_are_even_over_seeds_and_over_steps() -> None:
    one_id = np.array([7])
    for keys in (
        [key_of(seed, 0, Purpose.TOKEN) for seed in range(20_000)],
        [key_of(3, step, Purpose.TOKEN) for step in range(20_000)],
    ):
        high = np.array([int(hashed(one_id, key)[0]) >> 24 for key in keys])
        assert chi_square(np.bincount(high, minlength=256), len(keys) / 256) < limit(255)


@pytest.mark.parametrize(
    "other", [(0, 1, Purpose.TOKEN), (1, 0, Purpose.TOKEN), (-1, 0, Purpose.TOKEN), (0, 0, Purpose.BLOCK)]
)
def test_neighbouring_seeds_steps_and_purposes_do_not_correlate(other: tuple[int, int, Purpose]) -> None:
    ids = np.arange(100_000)
    first = hashed(ids, key_of(0, 0, Purpose.TOKEN)).astype(np.float64)
    second = hashed(ids, key_of(*other)).astype(np.float64)
    for shift in (0, 1, -1):
        assert abs(np.corrcoef(first, np.roll(second, shift))[0, 1]) < 5.2 / np.sqrt(len(ids))


@pytest.mark.parametrize("other", [(6, 6), (5, 7)])
def test_both_words_of_a_key_change_the_bits(other: tuple[int, int]) -> None:
    ids = np.arange(1000)
    assert np.count_nonzero(hashed(ids, (5, 6)) == hashed(ids, other)) <= 2


def test_neighbouring_ids_do_not_correlate() -> None:
    noise = hashed(np.arange(100_000), key_of(0, 0, Purpose.TOKEN)).astype(np.float64)
    for lag in (1, 2, 256):
        assert abs(np.corrcoef(noise[lag:], noise[:-lag])[0, 1]) < 5.2 / np.sqrt(len(noise))


def test_uniform_numbers_are_even_and_inside_the_unit_interval() -> None:
    numbers = np.array([uniform(9, step, Purpose.XTC) for step in range(50_000)])
    assert 0.0 < numbers.min() < numbers.max() < 1.0
    counts = np.histogram(numbers, bins=100, range=(0.0, 1.0))[0]
    assert chi_square(counts, 500.0) < limit(99)


def test_gumbel_noise_is_finite_and_has_its_distribution() -> None:
    noise = gumbel(np.arange(200_000), key_of(11, 0, Purpose.TOKEN))
    assert np.isfinite(noise).all()
    even = np.exp(-np.exp(-noise))
    counts = np.histogram(even, bins=200, range=(0.0, 1.0))[0]
    assert chi_square(counts, 1000.0) < limit(199)
