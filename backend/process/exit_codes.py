"""The process's exit codes, for whoever started it. `docs/protocol.md` has this table too."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The codes; a signal that kills the process outright shows as the system's own."""

    STOPPED = 0  # SIGTERM, SIGINT or SIGHUP, drained
    FAULT = 1  # our own failure outside the engine
    USAGE = 2  # an argument or an environment variable is wrong, or the Python that was named lacks a package
    ADDRESS = 3  # the address, or the metrics' port, cannot be had, or is not safe to listen on
    ENGINE_DEAD = 4  # the engine thread died or hangs
    PARENT_GONE = 5  # the process that started this one is gone
    NO_ENVIRONMENT = 6  # run.sh's alone: the first start of an installed package could not make its environment
    RANK_LOST = 7  # of a rank that follows: rank 0 or another is gone, stalls or has failed, or this one has
