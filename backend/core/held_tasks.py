"""Tasks that nobody waits for."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


def hold(tasks: set[asyncio.Task[T]], task: asyncio.Task[T]) -> None:
    """Keep a task in a set of its owner's until it is done: the loop itself would let it go. On a running loop."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
