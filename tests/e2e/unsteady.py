"""A worker on a machine that is unsteady on demand, and the processes that it has started."""

import os
from pathlib import Path

import psutil

from tests.e2e.worker import Worker, wait_until


class Unsteady:
    """A worker on a machine that does as it is told."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._orders = folder / "orders"
        command = ("-m", "tests.e2e.unsteady_worker", str(self._orders))
        self.worker = Worker(*arguments, command=command, environment={"TMPDIR": str(folder)})

    def order(self, order: str) -> None:
        """Change the machine, and wait until it has."""
        draft = self._orders.with_suffix(".draft")
        draft.write_text(order)
        draft.rename(self._orders)
        wait_until(lambda: not self._orders.exists(), "order read")


def child(worker: Worker, program: str) -> psutil.Process:
    """The process that runs one of our programs, and leads its session: forks of it look the same."""
    for one in psutil.Process(worker.pid).children():
        if os.getsid(one.pid) == one.pid and one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
            if any(program in word for word in one.cmdline()):
                return one
    raise AssertionError(f"no {program}")
