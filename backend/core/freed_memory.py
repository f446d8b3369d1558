"""Memory that a large request or a model has left free, back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache

# glibc keeps what is freed for later, tens of megabytes in each part of the heap.
LARGE_BYTES = 1 << 20
# Parts of the heap. By default threads get up to eight for each core, and each keeps what its largest request left.
ARENAS = 2
_M_ARENA_MAX = -8  # of malloc.h


def share_arenas() -> None:
    """Let all threads, those that are not yet started, share a few parts of the heap."""
    limit = _of_glibc("mallopt")
    if limit is not None:
        limit(_M_ARENA_MAX, ARENAS)


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    # macOS has no such function, and needs none.
    return getattr(ctypes.CDLL(None), name, None)


def give_back() -> None:
    """Return free pages, a few milliseconds of work without the interpreter lock."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
