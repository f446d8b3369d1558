"""What prepares requests comes and goes on threads that may hang, and then are left behind. Event loop."""

import asyncio

from backend.core.errors import ModelLoadFailed
from backend.engine.attempt import Attempt, close_in_thread
from backend.engine.loading import ModelFiles
from backend.engine.loading.failures import one_line
from backend.engine.preparing.building import build_preparer
from backend.engine.preparing.facts import LoadedFacts
from backend.engine.preparing.lanes import Lanes
from backend.engine.preparing.requests import RequestPreparer

CLOSE_SECONDS = 0.2


async def open_preparer(attempt: Attempt, facts: LoadedFacts, files: ModelFiles) -> RequestPreparer:
    """What prepares requests for the model, with prep threads of its own.

    Raises:
        ModelLoadFailed: The tokenizer is not one that can be served, or the load was given up.
    """
    try:
        prep = Lanes()
    except RuntimeError as error:
        raise ModelLoadFailed(f"tokenizer: {one_line(error)}") from None
    building = asyncio.ensure_future(prep.run(build_preparer, attempt.config, facts, files.tokenizer, prep))
    try:
        return await attempt.outcome_of("tokenizer", building)
    except BaseException:
        prep.shutdown()
        # One that comes after all has a process to stop.
        building.add_done_callback(_close_late)
        raise


def _close_late(building: "asyncio.Future[RequestPreparer]") -> None:
    if not building.cancelled() and building.exception() is None:
        close_in_thread("close", building.result().close)


async def close_preparer(preparer: RequestPreparer) -> None:
    """Close it, on a thread of its own that is left behind if that takes long; those of its prep threads may hang."""
    preparer.prep.shutdown()
    await asyncio.wait([close_in_thread("close", preparer.close)], timeout=CLOSE_SECONDS)
