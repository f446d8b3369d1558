"""The worker on a machine that is unsteady on demand: `python -m tests.e2e.unsteady_worker ORDERS [the worker's
arguments]`.

ORDERS is a file. Once it is there, its one line is obeyed and it goes: `threads none` lets no thread start, as a system
does that has no more for this process, `threads any` lets all; `disk hangs` lets no opening of a directory, and no
read or write of the prompt cache's files, end; `disk goes` lets them go on.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.01


class Machine:
    """What it is like now. Its own thread reads the orders."""

    def __init__(self) -> None:
        self._threads = True
        self._disk = threading.Event()
        self._disk.set()
        self._start = threading.Thread.start

    def plant(self) -> None:
        """Stand in front of the parts of Python's library that tell of a machine; before the worker is imported."""
        machine = self

        def start(thread: threading.Thread) -> None:
            if not machine._threads:
                raise RuntimeError("can't start new thread")
            machine._start(thread)

        threading.Thread.start = start  # type: ignore[method-assign]
        for name in ("readv", "writev"):
            setattr(os, name, self._delayed(getattr(os, name)))
        os.open = self._delayed(os.open, only=lambda path, flags, *_: flags & os.O_DIRECTORY)

    def _delayed(self, call: Any, only: Any = lambda *_: True) -> Any:
        def delayed(*args: Any, **options: Any) -> Any:
            if only(*args):
                self._disk.wait()
            return call(*args, **options)

        return delayed

    def obey(self, orders: Path) -> None:
        """Read orders for ever."""
        while True:
            time.sleep(LOOK_SECONDS)
            if orders.exists():
                self._take(*orders.read_text().split())
                orders.unlink()

    def _take(self, what: str, how: str) -> None:
        if what == "threads":
            self._threads = how == "any"
        elif how == "hangs":
            self._disk.clear()
        else:
            self._disk.set()


if __name__ == "__main__":
    machine = Machine()
    machine.plant()
    threading.Thread(target=machine.obey, args=(Path(sys.argv[1]),), daemon=True).start()
    from backend.__main__ import main

    main(sys.argv[2:])
