"""Signals before the worker serves, and what it has inherited of them."""

import signal
from collections.abc import Callable
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def means_stop(number: signal.Signals) -> bool:
    """Whether the worker is to end at this signal."""
    # nohup starts us with it ignored, and means it. (A shell's background jobs have SIGINT ignored unasked.)
    return number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


def stop_at_once(leave: Callable[[], None]) -> None:
    """From now on, until the worker takes them, each signal to stop ends the process: nothing is there yet to end.

    Main thread only, before any other is started.
    """
    # A host may have blocked them while it started us, and what is blocked stays so in the child.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPS, signal.SIGCHLD})

    def end(_number: int, _frame: FrameType | None) -> None:
        leave()

    for number in filter(means_stop, STOPS):
        signal.signal(number, end)
