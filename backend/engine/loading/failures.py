"""Foreign failures turned into one line that names the file or field at fault."""

import logging
from collections.abc import Callable
from typing import TypeVar

from backend.core.errors import ModelLoadFailed
from backend.core.logline import logline
from backend.core.panics import is_panic

log = logging.getLogger(__name__)

MAX_REASON = 400
FOREIGN = (Exception, SystemExit)
"""What code that is not ours may raise: some of it ends the process where a library is missing."""
T = TypeVar("T")


def one_line(error: BaseException) -> str:
    """The error's message on one line and cut short; its type where it has no message."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"has no {text}"
    if isinstance(error, SystemExit):
        text = f"code that it needs wants to end the process (exit {text})"
    if len(text) > MAX_REASON:
        text = text[:MAX_REASON] + " ..."
    return text or type(error).__name__


def guarded(subject: str, call: Callable[[], T]) -> T:
    """What `call` returns.

    Raises:
        ModelLoadFailed: `call` raised anything; "subject: reason".
    """
    try:
        return call()
    except ModelLoadFailed:
        raise
    # Parsers, architectures and a checkpoint's own code may raise anything, and LoadModel owes an answer.
    except FOREIGN as error:
        log.debug(logline("load_failed", subject=subject), exc_info=True)
        reason = one_line(error)
    except BaseException as error:
        if not is_panic(error):
            raise
        log.debug(logline("load_failed", subject=subject), exc_info=True)
        reason = f"a library that reads it has failed in itself: {one_line(error)}"
    # Raised outside of the handler: a chained traceback would keep the half-loaded weights alive.
    raise ModelLoadFailed(f"{subject}: {reason}")


def check_cancelled(cancelled: Callable[[], bool]) -> None:
    """Raise ModelLoadFailed if the load is no longer wanted."""
    if cancelled():
        raise ModelLoadFailed("loading was cancelled")
