"""Puts the prompt cache of a session together: what keeps it, under which keys, in which bytes. Engine thread only."""

from collections.abc import Callable
from functools import partial

from backend.config import ModelConfig
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.device_share import chunk_tokens, device_kind
from backend.engine.batching.drafting.assembly import draft_share
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.prefix_cache import PrefixCache, needs_snapshots
from backend.engine.batching.tenant_store import Beside, TenantStore
from backend.engine.batching.two_forms import TwoForms
from backend.engine.loading import LoadedModel
from backend.engine.loading.disk import OpenDisk
from backend.engine.waits import wait
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload

# Of what is left for KV, unless a load says how much.
CACHE_SHARE = 0.5


def make_prefix_cache(
    config: ModelConfig,
    loaded: LoadedModel,
    budget: MemoryBudget,
    generation: int,
    disk: OpenDisk | str,
    notify: Callable[[], None],
    clock: Callable[[], float],
) -> PrefixCache:
    """What requests of a loaded model may reuse, and leave.

    Args:
        budget: Of all KV, that in the cache too.
        generation: Of the load.
        disk: What keeps it beyond the process, or why nothing does.
        notify: Has this thread look for something to do; called on others.
    """
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


def _lasting_name(config: ModelConfig, loaded: LoadedModel) -> str:
    """Names the KV of this model as it is computed here: in any process that says the same, the bits are the same."""
    kind = device_kind()
    return f"{loaded.namespace} {kind} {chunk_tokens(config.engine, kind)}"
