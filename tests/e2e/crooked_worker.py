"""The worker with one thing wrong that no test of its answers would show: `python -m tests.e2e.crooked_worker ORDERS
[the worker's arguments]`.

ORDERS is a file. Once it is there, the thing that its one word names goes wrong and stays so until `straight`:
`slow` (Health), `greedy` and `sampled` (the model), `bytes` (arrays that nobody needs), `threads`, `descriptors`,
`child` (processes), `temporary` (a file in TMPDIR), and once `traceback` (in the log) and `native` (a line that is none
of ours).
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from backend.__main__ import main
from backend.process.settings import Settings

LOOK_SECONDS = 0.01
MANY = 8


class Crooked:
    """What is wrong now. Its own thread reads the orders; the engine thread and the event loop look."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self.wrong = ""
        self._straighten: list[Callable[[], object]] = []

    def obey(self) -> None:
        """Read orders for ever."""
        while True:
            time.sleep(LOOK_SECONDS)
            if self._orders.exists():
                for undo in self._straighten:
                    undo()
                self.wrong, self._straighten = self._orders.read_text(), []
                getattr(self, f"make_{self.wrong}", lambda: None)()
                self._orders.unlink()

    def make_threads(self) -> None:
        """As many as no pool has."""
        over = threading.Event()
        for _ in range(MANY):
            threading.Thread(target=over.wait, daemon=True).start()
        self._straighten.append(over.set)

    def make_descriptors(self) -> None:
        """Of a file that nobody reads."""
        for _ in range(MANY):
            self._straighten.append(partial(os.close, os.open(os.devnull, os.O_RDONLY)))

    def make_child(self) -> None:
        """Processes that nobody waits for; more than may come to render."""
        for _ in range(3):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            self._straighten += [child.kill, child.wait]

    def make_temporary(self) -> None:
        """A file that its writer has forgotten."""
        descriptor, path = tempfile.mkstemp()
        os.close(descriptor)
        self._straighten.append(Path(path).unlink)

    def make_traceback(self) -> None:
        """As the fault handler of a thread prints it."""
        sys.stderr.write("Traceback (most recent call last):\n")

    def make_native(self) -> None:
        """What native code writes past the log."""
        os.write(2, b"something that was left in for debugging\n")


class CrookedModel:
    """Stands in front of a loaded model. Engine thread only."""

    def __init__(self, crooked: Crooked, load: Callable[..., Any]) -> None:
        self._crooked = crooked
        self._load = load
        self._inner: Any = None
        self._kept: Any = None

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """`load_model`, with this in the model's place."""
        loaded = self._load(*args, **kwargs)
        self._inner = loaded.model
        return replace(loaded, model=self)

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        import mlx.core as mx

        logits = self._inner(tokens, **kwargs)
        wrong = self._crooked.wrong
        if wrong == "greedy":
            return mx.roll(logits, 1, axis=-1)
        if wrong == "sampled":
            return logits * 0.5  # the likeliest stays the likeliest
        if wrong == "bytes" and self._kept is None:
            self._kept = mx.zeros(1 << 14)
            mx.eval(self._kept)
        if not wrong:
            self._kept = None
        return logits


def plant_in_health(crooked: Crooked) -> None:
    """Make Health hold the event loop up while it is ordered to."""
    from backend.rpc.servicer import BackendService

    sound = BackendService.health

    async def slow(self: Any, *args: Any) -> Any:
        if crooked.wrong == "slow":
            time.sleep(0.3)  # noqa: ASYNC251
        return await sound(self, *args)

    BackendService.health = slow  # type: ignore[method-assign]


def engine_of(settings: Settings) -> Any:
    """The real engine over a model that may be crooked."""
    from backend.engine.handle import EngineHandle
    from backend.engine.loading import load_model

    crooked = Crooked(Path(sys.argv[1]))
    plant_in_health(crooked)
    threading.Thread(target=crooked.obey, daemon=True).start()
    return EngineHandle(blas=settings.blas, load=CrookedModel(crooked, load_model).load)


if __name__ == "__main__":
    main(sys.argv[2:], make_engine=engine_of)
