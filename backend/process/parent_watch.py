"""Notices that the process which started this one is gone.

By asking for the parent's id: a death signal (PDEATHSIG) fires on the end of the parent's thread, which is
wrong for hosts that start us from a pool of threads.
"""

import asyncio
import os
from collections.abc import Callable


async def parent_gone(interval_s: float, *, parent: int, ask: Callable[[], int] = os.getppid) -> None:
    """Return once the parent is not `parent` any more; never, where the parent was init to begin with."""
    if parent <= 1:
        await asyncio.Event().wait()
    while ask() == parent:  # noqa: ASYNC110 (nothing tells us; only asking does)
        await asyncio.sleep(interval_s)
