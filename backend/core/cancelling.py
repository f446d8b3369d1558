"""Who has cancelled what a task waits for."""

import asyncio


def is_being_cancelled() -> bool:
    """Whether somebody has cancelled the task that runs, and not something that it waits for. On a running loop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
