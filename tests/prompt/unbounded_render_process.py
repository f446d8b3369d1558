"""The render process on a system that enforces no limit of memory, where its own watch comes too late."""

import contextlib
import resource

from backend.prompt import render_process


def refused(*_: object) -> None:
    """As macOS answers for the address space."""
    raise ValueError("current limit exceeds maximum limit")


if __name__ == "__main__":
    resource.setrlimit = refused
    render_process.watched_memory = lambda _most: contextlib.nullcontext()
    render_process.main()
