"""Notices that the process which started this one is gone.

By asking for the parent's id: a death signal (PDEATHSIG) fires on the end of the parent's thread, which is
wrong for hosts that start us from a pool of threads.
"""

import asyncio
import os
from collections.abc import Callable, MutableMapping
from typing import Final

# Set by run.sh: its process id, which is ours since it ends in exec, and its parent's.
STARTED_BY: Final = "MLX_WORKER_STARTED_BY"


def first_parent(environment: MutableMapping[str, str]) -> int:
    """The parent that this process had when it began, as far as that can be known; takes the variable out.

    The interpreter needs a tenth of a second until it can ask. A host that dies meanwhile leaves a child whose parent
    looks like any other, so `run.sh` asks first. What another process was told is none of ours.
    """
    process, _, parent = environment.pop(STARTED_BY, "").partition(":")
    return int(parent) if process == str(os.getpid()) and parent.isdecimal() else os.getppid()


async def parent_gone(interval_s: float, *, parent: int, ask: Callable[[], int] = os.getppid) -> None:
    """Return once the parent is not `parent` any more; never, where the parent was init to begin with."""
    if parent <= 1:
        await asyncio.Event().wait()
    while ask() == parent:  # noqa: ASYNC110 (nothing tells us; only asking does)
        await asyncio.sleep(interval_s)
