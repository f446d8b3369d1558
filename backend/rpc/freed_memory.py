"""Memory that a large request has left free, back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache

# glibc keeps what is freed for later, tens of megabytes in each thread's part of the heap.
LARGE_BYTES = 1 << 20


@cache
def _trim() -> Callable[[int], int] | None:
    # Only glibc has it, and only glibc needs it.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return free pages, a few milliseconds of work without the interpreter lock."""
    trim = _trim()
    if trim is not None:
        trim(0)
