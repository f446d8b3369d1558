"""The limit of open files: what a shell gives (256 on macOS) is too little for many clients."""

import logging
import resource
from typing import Final

from backend.core.logline import logline

log = logging.getLogger(__name__)

WANTED: Final = 4096


def raise_open_files(wanted: int = WANTED) -> None:
    """Let this process, and those it starts, open `wanted` files, or as many as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError) as error:  # the system has a limit of its own; the worker runs with what it has
        log.debug(logline("open_files_not_raised", soft=soft, wanted=target, error=str(error)))
