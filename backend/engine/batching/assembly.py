"""Engine thread: puts a session together from a loaded model and its configuration."""

import gc
import logging
from collections.abc import Callable, Mapping
from functools import partial

import mlx.core as mx

from backend.config import STRICT_CHUNK, EngineConfig, ModelConfig, SamplerBackend
from backend.core.errors import ModelLoadFailed
from backend.core.freed_memory import give_back
from backend.engine.batching.asleep import Asleep
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.drafting.assembly import draft_facts, draft_share, drafting_maker
from backend.engine.batching.drafting.drafting import Drafting
from backend.engine.batching.group_cost import DeviceKind, padding_bounds
from backend.engine.batching.memory import MemoryBudget, copied_share
from backend.engine.batching.pace import Pace
from backend.engine.batching.parts import Parts
from backend.engine.batching.pooled.shapes import Shapes
from backend.engine.batching.prefix_cache import PrefixCache, needs_snapshots
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Speculating, pass_bytes
from backend.engine.batching.tenant_store import Beside, TenantStore
from backend.engine.batching.two_forms import TwoForms
from backend.engine.batching.warm_up import Discarded
from backend.engine.batching.warm_up import warm_up as warm_up_session
from backend.engine.channel import Outbox
from backend.engine.loading import LoadedModel
from backend.engine.loading.device_memory import DeviceMemory, bound_pool, device_memory, wire, wired_limit
from backend.engine.loading.disk import OpenDisk
from backend.engine.loading.failures import check_cancelled
from backend.engine.loading.kv_cost import KVCost, leaves
from backend.engine.picture import Counters
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.device.warm_up import warm_up as warm_up_sampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Drafter
from backend.engine.waits import wait
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload

log = logging.getLogger(__name__)

# Of what the device has left after the weights: activations, the buffer pool and the rest of the machine need some.
KV_SHARE = 0.7
CACHE_SHARE = 0.5
# What MLX may keep of freed buffers: those of a chunk and a step are asked for again, those of grown KV are not.
POOL_SHARE = 0.05
# Quantised attention holds the scores of a whole chunk: a prompt's later chunks are smaller, so that those of a layer
# stay below this. What mask and softmax make of them takes their place on a CPU (1.2 x in all); elsewhere it was not
# measured, so there is room for a copy.
MOST_SCORE_BYTES = 512 << 20
SCORE_COPIES = 2
# A GPU needs many tokens at a time to be busy. It draws a token in some hundredths of a second, a CPU in tenths.
CHUNK: Mapping[DeviceKind, int] = {"cpu": 512, "metal": 2048, "cuda": 2048}
SLICE_SECONDS: Mapping[DeviceKind, float] = {"cpu": 0.4, "metal": 0.05, "cuda": 0.05}


def make_session(
    config: ModelConfig,
    generation: int,
    *,
    loaded: LoadedModel,
    outbox: Outbox,
    tell: Callable[[], None],
    clock: Callable[[], float],
    asleep: Asleep | None = None,
    disk: OpenDisk | str = "",
    notify: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Session:
    """Everything that serves a loaded model.

    Args:
        asleep: The same model's, of this process: its prompt cache and counts go on, and its kernels are compiled.
        disk: What keeps the prompt cache beyond the process, or why nothing does.
        notify: Has this thread look for something to do; called on others.
        cancelled: Asked while the model warms up; true ends the load.

    Raises:
        ModelLoadFailed: The device has no room for a prompt beside the weights, or the model fails in its warm-up.
    """
    kind = device_kind()
    chunk = _chunk(config.engine, kind)
    warms = asleep is None and (config.engine.warm_up == "on" or (config.engine.warm_up == "auto" and kind != "cpu"))
    layers = len(list(leaves(loaded.new_cache())))
    memory, budget = _memory(config.engine, loaded, is_cpu=kind == "cpu", layers=layers)
    if loaded.ranks is not None:
        budget = loaded.ranks.smallest(budget)
    limit = wired_limit(config.engine.wired_bytes, memory=memory, wanted=loaded.all_weight_bytes + budget.total)
    new_batch = _batch_maker(config.engine.sampler, loaded, on_cpu=kind == "cpu", warms=warms, cancelled=cancelled)

    new_drafting = drafting_maker(
        config.engine, loaded, chunk=chunk, slice_s=SLICE_SECONDS[kind], clock=clock, cancelled=cancelled
    )

    def session(outbox: Outbox, tell: Callable[[], None], disk: OpenDisk | str = "") -> Session:
        prefix = asleep.prefix if asleep else _prefix_cache(config, loaded, budget, generation, disk, notify, clock)
        counters = asleep.counters if asleep else Counters()
        speculating = _speculating(config.engine, loaded, prefix, counters, drafting=new_drafting(prefix.drafts))
        parts = Parts(
            loaded=loaded,
            engine=config.engine,
            prefix=prefix,
            counters=counters,
            speculating=speculating,
            new_batch=new_batch,
            budget=budget,
            padding=padding_bounds(kind, step_bytes=loaded.step_bytes, layers=layers, budget=budget.total),
            outbox=outbox,
            tell=tell,
            chunk=chunk,
            pace=Pace(SLICE_SECONDS[kind], whole=loaded.ranks is not None),
            clock=clock,
            shapes=Shapes.of(kind, chunk=chunk, context=loaded.context_length),
            scores=MOST_SCORE_BYTES // loaded.score_bytes if loaded.score_bytes else None,
        )
        return Session(
            loaded=loaded,
            config=config,
            generation=generation,
            prefix=prefix,
            speculating=speculating,
            budget=budget,
            counters=counters,
            clock=clock,
            prefills=parts.prefills,
            pooled=parts.pooled,
            groups=parts.groups,
            room=parts.room,
            decoding=parts.decoding,
            admission=parts.admission,
            memory_facts={
                "device_memory": f"{memory.total} bytes: {memory.source}",
                "wired_limit": f"{limit} bytes" if limit else "",
                **_kv_facts(loaded),
                **draft_facts(loaded, kept=prefix.drafts is not None),
                **(loaded.ranks.facts if loaded.ranks is not None else {}),
            },
        )

    if warms:
        nobody = Discarded()
        throwaway = session(nobody, nobody.flush)
        warm_up_session(throwaway, nobody, chunk=chunk, cancelled=cancelled)
    made = session(outbox, tell, disk)
    # Last: whatever fails above has nothing to restore.
    made.restore_limits = _set_limits(limit, memory)
    return made


def kv_budget(engine: EngineConfig, loaded: LoadedModel) -> MemoryBudget:
    """What this process has for KV beside its weights.

    Raises:
        ModelLoadFailed: There is no room for a prompt.
    """
    layers = len(list(leaves(loaded.new_cache())))
    return _memory(engine, loaded, is_cpu=device_kind() == "cpu", layers=layers)[1]


def limit_memory(engine: EngineConfig, loaded: LoadedModel) -> Callable[[], None]:
    """Wire what the engine is to wire, and bound what MLX keeps; what undoes that."""
    layers = len(list(leaves(loaded.new_cache())))
    memory, budget = _memory(engine, loaded, is_cpu=device_kind() == "cpu", layers=layers)
    return _set_limits(
        wired_limit(engine.wired_bytes, memory=memory, wanted=loaded.weight_bytes + budget.total), memory
    )


def _chunk(engine: EngineConfig, kind: DeviceKind) -> int:
    """Tokens of a prefill chunk at most."""
    return STRICT_CHUNK if engine.isolation == "strict" else engine.prefill_chunk or CHUNK[kind]


def return_memory() -> None:
    """What a load that failed has left behind goes back to the device."""
    gc.collect()
    mx.clear_cache()
    give_back()


def _set_limits(wired: int, memory: DeviceMemory) -> Callable[[], None]:
    unwire = wire(wired, mx.set_wired_limit)
    unbound = bound_pool(int(POOL_SHARE * memory.total), mx.set_cache_limit)

    def restore() -> None:
        unwire()
        unbound()

    return restore


def _batch_maker(
    choice: SamplerBackend, loaded: LoadedModel, *, on_cpu: bool, warms: bool, cancelled: Callable[[], bool]
) -> Callable[[], DecodeBatch]:
    model, mergeable = loaded.model, loaded.batchable
    if (ranks := loaded.ranks) is not None:
        return lambda: ranks.new_batch(mergeable=mergeable)
    if not _draws_on_device(choice, loaded, on_cpu=on_cpu):
        return lambda: HostBatch(model, HostSampler(), mergeable=mergeable)
    # One for all groups: it keeps constants on the device. A CPU would take a C++ compiler and seconds to fuse.
    sampler = DeviceSampler(fused=not on_cpu)
    if warms:
        dtype = getattr(mx, loaded.dtype)
        warm_up_sampler(sampler, loaded.vocab_size, dtype, check=lambda: check_cancelled(cancelled))
    return lambda: DeviceBatch(model, sampler, mergeable=mergeable)


def _draws_on_device(choice: SamplerBackend, loaded: LoadedModel, *, on_cpu: bool) -> bool:
    return loaded.ranks is None and choice != "host" and not (choice == "auto" and on_cpu)


def device_kind() -> DeviceKind:
    """What MLX computes on by default."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _prefix_cache(
    config: ModelConfig,
    loaded: LoadedModel,
    budget: MemoryBudget,
    generation: int,
    disk: OpenDisk | str,
    notify: Callable[[], None],
    clock: Callable[[], float],
) -> PrefixCache:
    cache = config.cache
    max_bytes = cache.max_bytes if cache.max_bytes is not None else int(CACHE_SHARE * budget.total)
    max_sequences = 0 if loaded.uncached_reason else cache.max_sequences
    # The generation is in the key too: nothing of a model that was replaced can ever be found.
    key = (loaded.namespace, generation)
    below = CacheDisk(disk, _lasting_name(config, loaded), notify, clock)
    stored = loaded.stored_kv
    payload = MlxPayload(
        loaded.kept_whole, evaluate=wait, at_rest=None if stored is None else (stored.group_size, stored.bits)
    )
    kv = loaded.kv
    make = partial(TwoForms, kv=kv) if kv is not None and kv.start else PromptCache
    store = make(
        max_sequences,
        min(max_bytes, budget.total),
        payload=payload if loaded.ranks is None else loaded.ranks.payload(payload),
        disk=below.tier,
        disk_namespace=below.namespace_of,
        tells_of_others=False,
    )
    return PrefixCache(
        TenantStore(store, key, below, _beside(loaded, store, generation, clock)),
        snapshots=needs_snapshots(loaded.new_cache()),
        isolation=config.engine.isolation,
        conversations=Conversations(idle_s=cache.conversation_idle_s, most=cache.max_conversations),
        codes=stored,
    )


def _beside(loaded: LoadedModel, store: PromptCache, generation: int, clock: Callable[[], float]) -> Beside | None:
    """What the draft model reads, under keys of its own, in a part of the bytes of `store`."""
    draft = loaded.draft
    if draft is None or draft.uncached_reason:
        return None
    share = draft_share(loaded, draft)
    cache = PromptCache(
        store.max_size,
        int(share * store.max_bytes),
        payload=MlxPayload(draft.kept_whole, evaluate=wait),
        tells_of_others=False,
    )
    nowhere = CacheDisk("", "", lambda: None, clock)
    return Beside(TenantStore(cache, (draft.namespace, generation), nowhere), draft.kv_cost, share)


def _speculating(
    engine: EngineConfig, loaded: LoadedModel, prefix: PrefixCache, counters: Counters, *, drafting: Drafting | None
) -> Speculating:
    on_device = _draws_on_device(engine.sampler, loaded, on_cpu=device_kind() == "cpu")
    drafters = engine.drafters if drafting is not None else engine.drafters - {Drafter.MODEL}
    return Speculating(
        kinds=frozenset() if loaded.speculation_reason else drafters,
        depths=Depths(engine.max_draft) if drafting is None else drafting.depths,
        drafting=drafting,
        donor=prefix.donor,
        counters=counters,
        bytes_of=partial(pass_bytes, loaded.vocab_size, loaded.kv_cost.fixed, on_device=on_device),
        start=loaded.kv.start if loaded.kv is not None else 0,
        apart=engine.isolation == "strict",
    )


def _lasting_name(config: ModelConfig, loaded: LoadedModel) -> str:
    """Names the KV of this model as it is computed here: in any process that says the same, the bits are the same."""
    kind = device_kind()
    return f"{loaded.namespace} {kind} {_chunk(config.engine, kind)}"


def _scores_peak(loaded: LoadedModel) -> int:
    """Bytes of scores that a chunk of the longest prompt holds at once."""
    whole = loaded.score_bytes * max(CHUNK.values()) * loaded.context_length
    return SCORE_COPIES * min(MOST_SCORE_BYTES, whole)


def _kv_facts(loaded: LoadedModel) -> Mapping[str, str]:
    kv, stored = loaded.kv, loaded.stored_kv
    facts: dict[str, str] = {}
    if kv is not None:
        facts |= {"kv_bits": str(kv.bits), "kv_group_size": str(kv.group_size), "quantized_kv_start": str(kv.start)}
    if stored is not None:
        facts |= {"cache_kv_bits": str(stored.bits), "kv_group_size": str(stored.group_size)}
    return facts


def _memory(
    engine: EngineConfig, loaded: LoadedModel, *, is_cpu: bool, layers: int
) -> tuple[DeviceMemory, MemoryBudget]:
    memory = device_memory(mx.device_info(), is_cpu=is_cpu, active=mx.get_active_memory(), share=engine.memory_share)
    if not memory.total and engine.kv_bytes is None:
        raise ModelLoadFailed("kv_bytes: must be given, for the device does not say how much memory it has")
    left = max(0, memory.total - loaded.all_weight_bytes - _scores_peak(loaded))
    budget = MemoryBudget(
        int(KV_SHARE * left) if engine.kv_bytes is None else engine.kv_bytes,
        loaded.kv_cost,
        copied=copied_share(layers),
        beside=loaded.draft.kv_cost if loaded.draft is not None else KVCost(),
        chunk=_chunk(engine, device_kind()),
    )
    if not budget.fits(budget.prefilling(1)):
        what = f"weights of {loaded.all_weight_bytes} bytes leave" if engine.kv_bytes is None else "kv_bytes gives"
        raise ModelLoadFailed(
            f"{loaded.path}: {what} {budget.total} bytes for KV of {memory.total} bytes ({memory.source}), "
            f"one short prompt needs {budget.with_copies(budget.prefilling(1))}"
        )
    return memory, budget
