"""Random numbers by counting: a hash of (seed, step, index), so that they need no state and no order.

Formulas: the 64-bit mixer is SplitMix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014), the 32-bit one is the finaliser of MurmurHash3 (Austin Appleby, public domain).
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF

# The finaliser's shifts and multipliers, and an odd multiplier that spreads neighbouring indices (2**32 / phi).
FINAL_SHIFTS = (16, 13, 16)
FINAL_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
SPREAD = 0x9E3779B9

# Made once: making a numpy scalar costs as much as hashing with it.
_SHIFTS = tuple(np.uint32(shift) for shift in FINAL_SHIFTS)
_MULTIPLIERS = tuple(np.uint32(multiplier) for multiplier in FINAL_MULTIPLIERS)
_SPREAD = np.uint32(SPREAD)

# A draw is in two levels: a block of this many neighbouring ids, then a token of it. Host and device must agree.
BLOCK_BITS = 8
BLOCK = 1 << BLOCK_BITS

Key = tuple[int, int]
# The same words, `[n]` each.
Keys = tuple[NDArray[np.uint32], NDArray[np.uint32]]


class Purpose(IntEnum):
    """What a number is for; numbers of different purposes are independent."""

    TOKEN = 0
    BLOCK = 1
    XTC = 2


def _mix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _U64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _U64
    return value ^ (value >> 31)


def key_of(seed: int, step: int, purpose: Purpose) -> Key:
    """The two 32-bit words that one row's numbers of one step and purpose are hashed with. Any integer seed."""
    mixed = _mix64(_mix64(_mix64(seed & _U64) ^ (step & _U64)) ^ purpose)
    return mixed & _U32, mixed >> 32


def uniform(seed: int, step: int, purpose: Purpose) -> float:
    """One number in (0, 1)."""
    low, high = key_of(seed, step, purpose)
    return (((high << 20) | (low >> 12)) + 0.5) / (1 << 52)


def _finalise(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    value ^= value >> _SHIFTS[0]
    value *= _MULTIPLIERS[0]
    value ^= value >> _SHIFTS[1]
    value *= _MULTIPLIERS[1]
    value ^= value >> _SHIFTS[2]
    return value


def hashed(indices: NDArray[np.integer], key: Key | Keys) -> NDArray[np.uint32]:
    """32 random bits for each index, `[n]`, by one key or by each index' own."""
    low, high = key
    value = indices.astype(np.uint32)
    value *= _SPREAD
    value += np.uint32(low) if isinstance(low, int) else low
    value = _finalise(value)
    value ^= np.uint32(high) if isinstance(high, int) else high
    return _finalise(value)


def gumbel(indices: NDArray[np.integer], key: Key | Keys) -> NDArray[np.float64]:
    """Standard Gumbel noise for each index, `[n]`: finite, at most 22.9. Keys as `hashed` takes them."""
    # The fraction's fine end is the one that makes large noise: rare tokens are drawn at their true rate.
    noise = hashed(indices, key) + 0.5
    noise *= -(2.0**-32)
    np.log1p(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)
