"""The worker with parts that fail on demand: `python -m tests.e2e.faulty_worker ORDERS [the worker's arguments]`.

ORDERS is a file. Once it is there with a line `KIND N`, the N-th decode step from then on (`prefill`: prompt chunk)
fails in that way. Kinds: `raise`, `prefill`, `die` (nothing catches it), `hang`, `nan` (in the first row's logits);
`load` makes the next load hang on the engine thread. LOAD_PATIENCE is how many seconds a load may be silent at least.
A request with the stop string `planted-fault-N` has an output parser that raises at its N-th token.
"""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.__main__ import main
from backend.process.settings import Settings

STOP_STRING = "planted-fault-"


class PlantedDeathError(BaseException):
    """What no handler of the worker is meant to catch."""


class PlantedError(RuntimeError):
    """What the log names where a request was ended by what was planted."""


class FaultyModel:
    """Stands in front of a loaded model. Engine thread only."""

    def __init__(self, orders: Path, load: Callable[..., Any]) -> None:
        self._orders = orders
        self._load = load
        self._inner: Any = None
        self._kind, self._left = "", 0

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """`load_model`, with this in the model's place."""
        if self._orders.exists() and self._orders.read_text().startswith("load"):
            self._orders.unlink()
            threading.Event().wait()
        loaded = self._load(*args, **kwargs)
        self._inner = loaded.model
        return replace(loaded, model=self)

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        kind = self._due(is_decode=tokens.shape[1] == 1)
        if kind in ("raise", "prefill"):
            raise PlantedError("planted in the forward pass")
        if kind == "die":
            raise PlantedDeathError
        if kind == "hang":
            threading.Event().wait()
        logits = self._inner(tokens, **kwargs)
        if kind == "nan":
            logits[0] = float("nan")
        return logits

    def _due(self, *, is_decode: bool) -> str:
        """The kind of fault that this very call is to have, if any."""
        if not self._kind and self._orders.exists():
            self._kind, count = self._orders.read_text().split()
            self._left = int(count)
            self._orders.unlink()
        if not self._kind or is_decode == (self._kind == "prefill"):
            return ""
        self._left -= 1
        if self._left:
            return ""
        due, self._kind = self._kind, ""
        return due


def plant_in_output() -> None:
    """Make the output of a request that asks for it raise."""
    from backend.engine.preparing import requests

    sound = requests.OutputStream

    class FaultyOutput(sound):  # type: ignore[valid-type,misc]
        def __init__(self, decoder: Any, stops: tuple[str, ...], parser: Any) -> None:
            super().__init__(decoder, stops, parser)
            planted = [stop for stop in stops if stop.startswith(STOP_STRING)]
            self._left = int(planted[0].removeprefix(STOP_STRING)) if planted else 0

        def push(self, token: int) -> Any:
            self._left -= 1
            if self._left == 0:
                raise ValueError("planted in the output parser")
            return super().push(token)

    requests.OutputStream = FaultyOutput  # type: ignore[misc]


def engine_of(settings: Settings) -> Any:
    """The real engine over a faulty model."""
    from backend.engine import attempt
    from backend.engine.handle import EngineHandle
    from backend.engine.loading import load_model

    plant_in_output()
    if "LOAD_PATIENCE" in os.environ:
        attempt.LEAST_PATIENCE_SECONDS = float(os.environ["LOAD_PATIENCE"])
    return EngineHandle(blas=settings.blas, load=FaultyModel(Path(sys.argv[1]), load_model).load)


if __name__ == "__main__":
    os.environ.setdefault("MLX_WORKER_GRACE", "1s")
    main(sys.argv[2:], make_engine=engine_of)
