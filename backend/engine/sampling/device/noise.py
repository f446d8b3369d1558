"""`noise` in MLX operations: the same bits for the same key and index, so that device and host draw alike.

Elementwise throughout, so that it becomes part of whatever kernel uses it.
"""

import mlx.core as mx

from backend.engine.sampling.noise import FINAL_MULTIPLIERS, FINAL_SHIFTS, SPREAD

_LARGEST_FRACTION = 1.0 - 2.0**-24


def _word(value: int) -> mx.array:
    return mx.array(value, mx.uint32)


def _finalise(value: mx.array) -> mx.array:
    value = value ^ (value >> _word(FINAL_SHIFTS[0]))
    value = value * _word(FINAL_MULTIPLIERS[0])
    value = value ^ (value >> _word(FINAL_SHIFTS[1]))
    value = value * _word(FINAL_MULTIPLIERS[1])
    return value ^ (value >> _word(FINAL_SHIFTS[2]))


def hashed(indices: mx.array, low: mx.array, high: mx.array) -> mx.array:
    """32 random bits for each index, uint32 `[rows, n]`.

    Args:
        indices: uint32, `[rows, n]` or `[1, n]`.
        low, high: The two words of each row's key, uint32 `[rows, 1]`.
    """
    return _finalise(_finalise(indices * _word(SPREAD) + low) ^ high)


def gumbel(indices: mx.array, low: mx.array, high: mx.array) -> mx.array:
    """Standard Gumbel noise for each index, float32 `[rows, n]`, finite."""
    fraction = hashed(indices, low, high).astype(mx.float32) * 2.0**-32 + 2.0**-33
    # float32 has no room for the last steps before 1, where the logarithm would be infinite.
    fraction = mx.minimum(fraction, _LARGEST_FRACTION)
    return -mx.log(-mx.log1p(-fraction))
