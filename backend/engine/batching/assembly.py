"""Engine thread: puts a session together from a loaded model and its configuration."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from backend.config import EngineConfig, ModelConfig, SamplerBackend
from backend.core.freed_memory import give_back
from backend.engine.batching.asleep import Asleep
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.cache_assembly import make_prefix_cache
from backend.engine.batching.device_share import DeviceShare, chunk_tokens, device_kind, layers_of, most_scores
from backend.engine.batching.drafting.assembly import draft_facts, drafting_maker
from backend.engine.batching.drafting.drafting import Drafting
from backend.engine.batching.group_cost import DeviceKind, padding_bounds
from backend.engine.batching.kept_drafts import KeptDrafts
from backend.engine.batching.pace import Pace
from backend.engine.batching.parts import Parts
from backend.engine.batching.pooled.shapes import Shapes
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.session import Session
from backend.engine.batching.speculating import Speculating, pass_bytes
from backend.engine.batching.warm_up import Discarded
from backend.engine.batching.warm_up import warm_up as warm_up_session
from backend.engine.channel import Outbox
from backend.engine.loading import LoadedModel
from backend.engine.loading.disk import OpenDisk
from backend.engine.loading.failures import check_cancelled
from backend.engine.picture import Counters
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.device.warm_up import warm_up as warm_up_sampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Drafter

# A GPU draws a token in some hundredths of a second, a CPU in tenths.
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
    engine, kind = config.engine, device_kind()
    chunk, on_cpu = chunk_tokens(engine, kind), kind == "cpu"
    warms = asleep is None and (engine.warm_up == "on" or (engine.warm_up == "auto" and not on_cpu))
    share = DeviceShare.of(engine, loaded)
    making = _Making(
        config=config,
        generation=generation,
        loaded=loaded,
        kind=kind,
        chunk=chunk,
        share=share,
        new_batch=_batch_maker(engine.sampler, loaded, on_cpu=on_cpu, warms=warms, cancelled=cancelled),
        new_drafting=drafting_maker(
            engine, loaded, chunk=chunk, slice_s=SLICE_SECONDS[kind], clock=clock, cancelled=cancelled
        ),
        notify=notify,
        clock=clock,
    )
    if warms:
        nobody = Discarded()
        throwaway = making.session(nobody, nobody.flush, making.prefix_cache(), Counters())
        warm_up_session(throwaway, nobody, chunk=chunk, cancelled=cancelled)
    if asleep is None:
        made = making.session(outbox, tell, making.prefix_cache(disk), Counters())
    else:
        made = making.session(outbox, tell, asleep.prefix, asleep.counters)
    # Last: whatever fails above has nothing to restore.
    made.restore_limits = share.limit()
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """What the sessions of one load are made of: the one that warms up, and the one that serves."""

    config: ModelConfig
    generation: int
    loaded: LoadedModel
    kind: DeviceKind
    chunk: int
    share: DeviceShare
    new_batch: Callable[[], DecodeBatch]
    new_drafting: Callable[[KeptDrafts | None], Drafting | None]
    notify: Callable[[], None]
    clock: Callable[[], float]

    def prefix_cache(self, disk: OpenDisk | str = "") -> PrefixCache:
        """One with nothing in it, but for what the disk has."""
        return make_prefix_cache(
            self.config, self.loaded, self.share.budget, self.generation, disk, self.notify, self.clock
        )

    def session(self, outbox: Outbox, tell: Callable[[], None], prefix: PrefixCache, counters: Counters) -> Session:
        """A session whose requests are told of in `outbox`."""
        drafting = self.new_drafting(prefix.drafts)
        speculating = _speculating(self.config.engine, self.loaded, prefix, counters, drafting=drafting)
        parts = self._parts(outbox, tell, prefix, counters, speculating)
        return Session(
            loaded=self.loaded,
            config=self.config,
            generation=self.generation,
            prefix=prefix,
            speculating=speculating,
            budget=self.share.budget,
            counters=counters,
            clock=self.clock,
            prefills=parts.prefills,
            pooled=parts.pooled,
            groups=parts.groups,
            room=parts.room,
            decoding=parts.decoding,
            admission=parts.admission,
            memory_facts=_memory_facts(self.loaded, self.share, prefix),
        )

    def _parts(
        self,
        outbox: Outbox,
        tell: Callable[[], None],
        prefix: PrefixCache,
        counters: Counters,
        speculating: Speculating,
    ) -> Parts:
        loaded, kind, budget = self.loaded, self.kind, self.share.budget
        return Parts(
            loaded=loaded,
            engine=self.config.engine,
            prefix=prefix,
            counters=counters,
            speculating=speculating,
            new_batch=self.new_batch,
            budget=budget,
            padding=padding_bounds(kind, step_bytes=loaded.step_bytes, layers=layers_of(loaded), budget=budget.total),
            outbox=outbox,
            tell=tell,
            chunk=self.chunk,
            pace=Pace(SLICE_SECONDS[kind], whole=loaded.ranks is not None),
            clock=self.clock,
            shapes=Shapes.of(kind, chunk=self.chunk, context=loaded.context_length),
            scores=most_scores(loaded),
        )


def return_memory() -> None:
    """What a load that failed has left behind goes back to the device."""
    gc.collect()
    mx.clear_cache()
    give_back()


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


def _memory_facts(loaded: LoadedModel, share: DeviceShare, prefix: PrefixCache) -> Mapping[str, str]:
    """For Info, in words."""
    kv, stored = loaded.kv, loaded.stored_kv
    facts = {
        "device_memory": f"{share.memory.total} bytes: {share.memory.source}",
        "wired_limit": f"{share.wired} bytes" if share.wired else "",
    }
    if kv is not None:
        facts |= {"kv_bits": str(kv.bits), "kv_group_size": str(kv.group_size), "quantized_kv_start": str(kv.start)}
    if stored is not None:
        facts |= {"cache_kv_bits": str(stored.bits), "kv_group_size": str(stored.group_size)}
    facts |= draft_facts(loaded, kept=prefix.drafts is not None)
    return facts if loaded.ranks is None else facts | dict(loaded.ranks.facts)
