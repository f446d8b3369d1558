"""The worker whose model fails on demand and is otherwise itself, layer by layer: `python -m tests.soak.faulty_worker
ORDERS [the worker's arguments]`. ORDERS is as `tests.e2e.faulty_worker` has it.
"""

import sys
from pathlib import Path
from typing import Any

from backend.__main__ import main
from backend.process.settings import Settings
from tests.e2e.faulty_worker import FaultyLoad, PlantedError


class FaultyCalls(FaultyLoad):
    """Plants in the loaded model's own calls. Engine thread only."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`load_model`, with a model of a class derived from its own."""
        loaded = self._load(*args, **kwargs)
        sound, faults = type(loaded.model), self.orders

        def call(model: Any, tokens: Any, *others: Any, **options: Any) -> Any:
            kind = faults.due(*(("raise", "nan") if tokens.shape[1] == 1 else ("prefill",)))
            if kind in ("raise", "prefill"):
                raise PlantedError("planted in the forward pass")
            logits = sound.__call__(model, tokens, *others, **options)
            if kind == "nan":
                logits[0] = float("nan")
            return logits

        loaded.model.__class__ = type(sound.__name__, (sound,), {"__call__": call, "__module__": sound.__module__})
        return loaded


def engine_of(settings: Settings) -> Any:
    """The real engine over a model whose calls may fail."""
    from backend.engine.handle import EngineHandle
    from backend.engine.loading import load_model

    return EngineHandle(blas=settings.blas, load=FaultyCalls(Path(sys.argv[1]), load_model))


if __name__ == "__main__":
    main(sys.argv[2:], make_engine=engine_of)
