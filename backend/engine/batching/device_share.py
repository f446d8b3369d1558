"""What a model has of the device it runs on: bytes for KV, bytes that stay wired, tokens of a pass. Engine thread."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx

from backend.config import STRICT_CHUNK, EngineConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.batching.group_cost import DeviceKind
from backend.engine.batching.memory import MemoryBudget, copied_share
from backend.engine.loading import LoadedModel
from backend.engine.loading.device_memory import DeviceMemory, bound_pool, device_memory, wire, wired_limit
from backend.engine.loading.kv_cost import KVCost, leaves

# Of what the device has left after the weights: activations, the buffer pool and the rest of the machine need some.
KV_SHARE = 0.7
# What MLX may keep of freed buffers: those of a chunk and a step are asked for again, those of grown KV are not.
POOL_SHARE = 0.05
# Quantised attention holds the scores of a whole chunk: a prompt's later chunks are smaller, so that those of a layer
# stay below this. What mask and softmax make of them takes their place on a CPU (1.2 x in all); elsewhere it was not
# measured, so there is room for a copy.
MOST_SCORE_BYTES = 512 << 20
SCORE_COPIES = 2
# A GPU needs many tokens at a time to be busy.
CHUNK: Mapping[DeviceKind, int] = {"cpu": 512, "metal": 2048, "cuda": 2048}


def device_kind() -> DeviceKind:
    """What MLX computes on by default."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def chunk_tokens(engine: EngineConfig, kind: DeviceKind) -> int:
    """Tokens of a prefill chunk at most."""
    return STRICT_CHUNK if engine.isolation == "strict" else engine.prefill_chunk or CHUNK[kind]


def most_scores(loaded: LoadedModel) -> int | None:
    """Of a prefill chunk, the most query tokens times key tokens; None where nothing bounds them."""
    return MOST_SCORE_BYTES // loaded.score_bytes if loaded.score_bytes else None


def layers_of(loaded: LoadedModel) -> int:
    """Layers that keep something of a row."""
    return len(list(leaves(loaded.new_cache())))


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What one worker's model has of the device.

    Attributes:
        memory: Of which it is a part.
        budget: For KV beside the weights.
        wired: Bytes that the system must not page out.
    """

    memory: DeviceMemory
    budget: MemoryBudget
    wired: int

    @classmethod
    def of(cls, engine: EngineConfig, loaded: LoadedModel) -> "DeviceShare":
        """That of a model whose weights are on the device; where ranks share one, of a budget that all of them have.

        Raises:
            ModelLoadFailed: There is no room for a prompt.
        """
        kind = device_kind()
        memory = device_memory(
            mx.device_info(), is_cpu=kind == "cpu", active=mx.get_active_memory(), share=engine.memory_share
        )
        budget = _budget(engine, loaded, memory, kind)
        if loaded.ranks is not None:
            budget = loaded.ranks.smallest(budget)
        wanted = loaded.all_weight_bytes + budget.total
        return cls(memory, budget, wired_limit(engine.wired_bytes, memory=memory, wanted=wanted))

    def limit(self) -> Callable[[], None]:
        """Wire what is to be wired, and bound what MLX keeps; what undoes that."""
        unwire = wire(self.wired, mx.set_wired_limit)
        unbound = bound_pool(int(POOL_SHARE * self.memory.total), mx.set_cache_limit)

        def restore() -> None:
            unwire()
            unbound()

        return restore


def _budget(engine: EngineConfig, loaded: LoadedModel, memory: DeviceMemory, kind: DeviceKind) -> MemoryBudget:
    if not memory.total and engine.kv_bytes is None:
        raise ModelLoadFailed("kv_bytes: must be given, for the device does not say how much memory it has")
    left = max(0, memory.total - loaded.all_weight_bytes - _scores_peak(loaded))
    budget = MemoryBudget(
        int(KV_SHARE * left) if engine.kv_bytes is None else engine.kv_bytes,
        loaded.kv_cost,
        copied=copied_share(layers_of(loaded)),
        beside=loaded.draft.kv_cost if loaded.draft is not None else KVCost(),
        chunk=chunk_tokens(engine, kind),
    )
    if not budget.fits(budget.prefilling(1)):
        what = f"weights of {loaded.all_weight_bytes} bytes leave" if engine.kv_bytes is None else "kv_bytes gives"
        raise ModelLoadFailed(
            f"{loaded.path}: {what} {budget.total} bytes for KV of {memory.total} bytes ({memory.source}), "
            f"one short prompt needs {budget.with_copies(budget.prefilling(1))}"
        )
    return budget


def _scores_peak(loaded: LoadedModel) -> int:
    """Bytes of scores that a chunk of the longest prompt holds at once."""
    whole = loaded.score_bytes * max(CHUNK.values()) * loaded.context_length
    return SCORE_COPIES * min(MOST_SCORE_BYTES, whole)
