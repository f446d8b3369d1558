"""The worker with parts that fail on demand: `python -m tests.e2e.faulty_worker ORDERS [the worker's arguments]`.

ORDERS is a file. Once it is there with a line `KIND N`, the N-th decode step from then on (`prefill`, `hold_prefill`:
prompt chunk; `draft`: of a draft model) fails in that way. Kinds: `raise`, `prefill`, `draft`, `die` (nothing catches
it), `hang`, `nan` (in the first row's logits), `hold` and `hold_prefill` (ORDERS.held is there until ORDERS.go is).
Those of `PLACES` fail at each of the next N calls; `load` makes the next load hang on the engine thread; `none` is no
fault.
A later order takes the place of an earlier one.
LOAD_PATIENCE is how many seconds a load may be silent at least. A request with the stop string `planted-fault-N` has an
output parser that raises at its N-th token; a text with `planted-panic` makes the tokenizer's library panic.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backend.__main__ import main
from backend.process.settings import Settings

STOP_STRING = "planted-fault-"
PANIC_TEXT = "planted-panic"
IN_PREFILL = ("prefill", "hold_prefill")
_CACHE = ("fetch", "insert", "match_length", "trim_to", "continuation", "forget", "stats")
# Kinds, and the methods that fail: module, class, name.
PLACES = {
    "leave": [("backend.engine.batching.batch", "DecodeBatch", "leave")],
    "cache": [
        *(("mlx_cache", "PromptCache", name) for name in _CACHE),
        *(("mlx_cache.payload", "MlxPayload", name) for name in ("restore", "copy_blocks")),
    ],
}
# What the library of tokenizers panics at.
PANICS = (
    '{"version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},'
    ' "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
)


class PlantedDeathError(BaseException):
    """What no handler of the worker is meant to catch."""


class PlantedError(RuntimeError):
    """What the log names where a request was ended by what was planted."""


class Orders:
    """What is to fail next. Engine thread only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind, self._left = "", 0

    def due(self, *kinds: str, each: bool = False) -> str:
        """The kind of fault that this very call is to have, if any.

        Args:
            kinds: Those that it could have.
            each: Every call has it until so many had; else the last of them alone.
        """
        if self._path.exists():
            self._kind, count = self._path.read_text().split()
            self._left = int(count)
            self._path.unlink()
        kind = self._kind
        if kind not in kinds:
            return ""
        self._left -= 1
        if not self._left:
            self._kind = ""
        return kind if each or not self._left else ""

    def hold(self) -> None:
        """Wait for the file that lets it go on."""
        held, go = self._path.with_suffix(".held"), self._path.with_suffix(".go")
        held.touch()
        while not go.exists():
            time.sleep(0.005)
        go.unlink()
        held.unlink()


class FaultyModel:
    """Stands in front of a loaded model. Engine thread only."""

    def __init__(self, orders: Orders, inner: Any, decoding: tuple[str, ...], prefilling: tuple[str, ...] = ()) -> None:
        self._orders = orders
        self._inner = inner
        self._kinds = {True: decoding, False: prefilling}

    def __call__(self, tokens: Any, **kwargs: Any) -> Any:
        kind = self._orders.due(*self._kinds[tokens.shape[1] == 1])
        if kind in ("raise", "prefill", "draft"):
            raise PlantedError("planted in the forward pass")
        if kind.startswith("hold"):
            self._orders.hold()
        if kind == "die":
            raise PlantedDeathError
        if kind == "hang":
            threading.Event().wait()
        logits = self._inner(tokens, **kwargs)
        if kind == "nan":
            logits[0] = float("nan")
        return logits


class FaultyLoad:
    """`load_model`, with faulty models in place of those."""

    def __init__(self, orders: Path, load: Callable[..., Any]) -> None:
        self._load = load
        self._planted = False
        self.orders = Orders(orders)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `load_model`. A draft model seems to pay whatever it costs."""
        if self.orders.due("load"):
            threading.Event().wait()
        if not self._planted:  # not earlier: the engine thread is the first to import MLX
            self._planted = True
            plant_in_tokenizer()
            plant_in_places(self.orders)
        loaded = self._load(*args, **kwargs)
        if loaded.draft is not None:
            from tests.engine.drafting import pay_always

            pay_always(SimpleNamespace(setattr=setattr))  # type: ignore[arg-type]
            faulty = FaultyModel(self.orders, loaded.draft.model, ("draft",), ("draft",))
            loaded = replace(loaded, draft=replace(loaded.draft, model=faulty))
        kinds = ("raise", "die", "hang", "nan", "hold")
        return replace(loaded, model=FaultyModel(self.orders, loaded.model, kinds, IN_PREFILL))


def plant_in_places(orders: Orders) -> None:
    """Make the methods of `PLACES` raise when they are due."""

    def faulty(sound: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "engine" and orders.due(kind, each=True):
                raise PlantedError(f"planted in {sound.__name__}")
            return sound(*args, **kwargs)

        return call

    for kind, places in PLACES.items():
        for module, owner, name in places:
            of = getattr(import_module(module), owner)
            setattr(of, name, faulty(getattr(of, name), kind))


def plant_in_tokenizer() -> None:
    """Make tokenizers' own code panic at a text that asks for it."""
    from tokenizers import Tokenizer

    from backend.prompt.encoder import TextEncoder

    sound = TextEncoder._encode

    def panicking(self: Any, text: str, *args: Any) -> Any:
        if PANIC_TEXT in text:
            Tokenizer.from_str(PANICS)
        return sound(self, text, *args)

    TextEncoder._encode = panicking  # type: ignore[method-assign]


def plant_in_output() -> None:
    """Make the output of a request that asks for it raise."""
    from backend.engine.preparing import requests

    sound = requests.OutputStream

    class FaultyOutput(sound):  # type: ignore[valid-type,misc]
        def __init__(self, decoder: Any, stops: tuple[str, ...], parser: Any, **options: Any) -> None:
            super().__init__(decoder, stops, parser, **options)
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

    if "LOAD_PATIENCE" in os.environ:
        attempt.LEAST_PATIENCE_SECONDS = float(os.environ["LOAD_PATIENCE"])
    plant_in_output()
    return EngineHandle(blas=settings.blas, load=FaultyLoad(Path(sys.argv[1]), load_model))


if __name__ == "__main__":
    os.environ.setdefault("MLX_WORKER_GRACE", "1s")
    main(sys.argv[2:], make_engine=engine_of)
