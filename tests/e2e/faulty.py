"""A worker that fails on demand, and the orders that it takes."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.worker import Worker, wait_until


class Faulty:
    """A worker that fails on demand; `faulty_worker` says how."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "orders"
        # What is planted counts calls of the model, and takes one over several tokens for a prompt's.
        command = ("-m", "tests.e2e.faulty_worker", str(self._orders))
        self.worker = Worker("--speculation", "off", command=command, environment={"RUST_BACKTRACE": "0"})

    def order(self, kind: str, count: int = 1) -> None:
        """Have the next fault happen."""
        draft = self._orders.with_suffix(".draft")
        draft.write_text(f"{kind} {count}")
        draft.rename(self._orders)

    def obeyed(self) -> None:
        """Wait until the order has been read."""
        wait_until(lambda: not self._orders.exists(), "order read")

    @contextmanager
    def held(self) -> Generator[None]:
        """While the call that is to be held is; afterwards it goes on."""
        held = self._orders.with_suffix(".held")
        wait_until(held.exists, "held")
        try:
            yield
        finally:
            self._orders.with_suffix(".go").touch()
            wait_until(lambda: not held.exists(), "let go")
