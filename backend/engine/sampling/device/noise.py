"""`noise` in MLX operations: the same bits for the same key and index, so that device and host draw alike."""

import mlx.core as mx

from backend.engine.sampling.noise import FINAL_MULTIPLIERS, FINAL_SHIFTS, SPREAD, Key

_LARGEST_FRACTION = 1.0 - 2.0**-24


def _word(value: int) -> mx.array:
    return mx.array(value, mx.uint32)


def _finalise(value: mx.array) -> mx.array:
    value = value ^ (value >> _word(FINAL_SHIFTS[0]))
    value = value * _word(FINAL_MULTIPLIERS[0])
    value = value ^ (value >> _word(FINAL_SHIFTS[1]))
    value = value * _word(FINAL_MULTIPLIERS[1])
    return value ^ (value >> _word(FINAL_SHIFTS[2]))


def hashed(indices: mx.array, keys: list[Key]) -> mx.array:
    """32 random bits for each index, uint32 `[rows, n]`.

    Args:
        indices: uint32, `[rows, n]` or `[1, n]`.
        keys: One a row.
    """
    low = mx.array([key[0] for key in keys], mx.uint32)[:, None]
    high = mx.array([key[1] for key in keys], mx.uint32)[:, None]
    return _finalise(_finalise(indices * _word(SPREAD) + low) ^ high)


def gumbel(indices: mx.array, keys: list[Key]) -> mx.array:
    """Standard Gumbel noise for each index, float32 `[rows, n]`, finite."""
    fraction = hashed(indices, keys).astype(mx.float32) * 2.0**-32 + 2.0**-33
    # float32 has no room for the last steps before 1, where the logarithm would be infinite.
    fraction = mx.minimum(fraction, _LARGEST_FRACTION)
    return -mx.log(-mx.log1p(-fraction))
