"""What a draft model has read shares the prompt cache's bytes, and whatever ends the model's own ends it too."""

import random
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache
from numpy.typing import NDArray

from backend.config import Isolation
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.tenant_store import Beside, TenantStore
from backend.engine.loading.kv_cost import KVCost
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload
from mlx_cache.policy import LeafLru

# Bytes of a token: 3 of 4 are the model's.
OWN, DRAFT = 3 * 512, 512
LIMIT = 400 * (OWN + DRAFT)


def caches(length: int, per_token: int) -> list[Any]:
    cache = KVCache()
    cache.update_and_fetch(*mx.zeros((2, 1, 1, length, per_token // 8)))
    return [cache]


def both(isolation: Isolation = "performance", most: int = 2) -> tuple[TenantStore, PrefixCache]:
    def nowhere() -> CacheDisk:
        return CacheDisk("", "", lambda: None, lambda: 0.0)

    def cache(n_bytes: int) -> PromptCache:
        return PromptCache(max_bytes=n_bytes, payload=MlxPayload(), policy=LeafLru(), block_tokens=16)

    drafts = TenantStore(cache(LIMIT // 4), "draft", nowhere())
    store = TenantStore(cache(LIMIT), "model", nowhere(), Beside(drafts, KVCost(per_token=DRAFT), 0.25))
    conversations = Conversations(idle_s=60.0, most=most)
    return store, PrefixCache(store, snapshots=False, isolation=isolation, conversations=conversations)


def text(seed: int, length: int = 100) -> NDArray[np.int32]:
    return np.array([seed, *random.Random(seed).choices(range(1000), k=length - 1)], np.int32)


def insert(store: TenantStore, tokens: NDArray[np.int32], tenant: str = "") -> None:
    store.insert(tokens, caches(len(tokens), OWN), tenant)
    store.insert_draft(tokens, caches(len(tokens), DRAFT), tenant)


def test_neither_goes_beyond_what_both_may_have_and_the_drafts_not_beyond_their_part() -> None:
    store, _ = both()
    rng = random.Random(3)
    for turn in range(200):
        tokens = text(rng.randrange(30), rng.choice((16, 90, 150)))
        match rng.randrange(4):
            case 0:
                store.insert(tokens, caches(len(tokens), OWN), "")
            case 1:
                store.insert_draft(tokens, caches(len(tokens), DRAFT), "")
            case 2:
                insert(store, tokens)
            case _:
                store.limit_to(rng.choice((LIMIT // 8, LIMIT // 2, LIMIT)), sparing=tokens)
        assert store.nbytes == store.cache.nbytes + store.draft_nbytes <= store._limit, turn
        assert store.draft_nbytes <= store._limit / 4, turn


def test_what_the_drafts_do_not_take_is_the_models_and_it_gives_way_to_them_no_further_than_their_part() -> None:
    store, _ = both()
    for seed in range(8):
        store.insert(text(seed), caches(100, OWN), "")
    assert store.cache.nbytes > 0.95 * LIMIT
    for seed in range(100, 120):
        store.insert_draft(text(seed), caches(100, DRAFT), "")
    assert 0.2 * LIMIT < store.draft_nbytes <= LIMIT / 4
    assert 0.7 * LIMIT < store.cache.nbytes <= 0.8 * LIMIT
    # Of the drafts the latest are left, of the model's own none that the drafts did not need the place of.
    drafts = store.drafts
    left = [drafts.cache.match_length(drafts.key_of(""), text(seed)) > 50 for seed in range(100, 120)]
    assert left == [False] * 16 + [True] * 4
    drafts.clear(None)
    # More than its tokens: refused, and the room is given back.
    store.insert_draft(text(1), caches(120, DRAFT), "")
    assert not store.draft_nbytes
    for seed in range(20, 28):
        store.insert(text(seed), caches(100, OWN), "")
    assert store.cache.nbytes > 0.95 * LIMIT


def test_what_drafts_that_were_erased_had_is_the_models_again() -> None:
    store, prefix = both()
    for seed in range(4):
        store.insert_draft(text(seed), caches(100, DRAFT), "ours")
    prefix.erase("ours")
    assert not store.limit_to(LIMIT)
    for seed in range(8):
        store.insert(text(seed), caches(100, OWN), "")
    assert store.cache.nbytes > 0.95 * LIMIT


def test_there_is_room_before_anything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = both()
    for seed in range(8):
        store.insert(text(seed), caches(100, OWN), "")
    insert_drafts, seen = store.drafts.insert, list[int]()

    def watched(*arguments: Any) -> None:
        seen.append(store.cache.nbytes + store.drafts.cache.max_bytes)
        insert_drafts(*arguments)

    monkeypatch.setattr(store.drafts, "insert", watched)
    for seed in range(8):
        store.insert_draft(text(seed), caches(100, DRAFT), "")
    assert len(seen) == 8 and max(seen) <= LIMIT


def test_what_was_read_before_all_was_erased_is_not_kept_after() -> None:
    store, prefix = both()
    request = SimpleNamespace(tenant="ours")
    assert prefix.drafts is not None
    for erased in (True, False):
        row = cast(Any, SimpleNamespace(request=request, stores=True, epoch=prefix.epoch("ours")))
        if erased:
            prefix.erase("ours")
        prefix.drafts.keep(row, text(1), caches(100, DRAFT))
        assert store.draft_nbytes == (0 if erased else 100 * DRAFT)


def test_both_shrink_alike_for_rows_and_what_is_named_last() -> None:
    store, prefix = both()
    for seed in range(5):
        insert(store, text(seed))
    assert prefix.kept.keep("rules", text(4), caches(100, OWN))
    assert store.limit_to(LIMIT // 2)
    assert store.nbytes <= LIMIT // 2 and store.draft_nbytes > LIMIT // 10
    assert store.limit_to(100 * OWN + 20 * DRAFT)
    assert store.cache.nbytes == 100 * OWN and 0 < store.draft_nbytes <= 20 * DRAFT


def test_a_prompt_that_is_about_to_start_keeps_its_prefix_in_both() -> None:
    store, _ = both()
    for seed in range(4):
        insert(store, text(seed))
    assert store.limit_to(LIMIT // 4, sparing=text(0))
    assert store.cache.match_length(store.key_of(""), text(0)) == 99
    assert store.drafts.cache.match_length(store.drafts.key_of(""), text(0)) == 99


@pytest.mark.parametrize("tenant", ["ours", None])
def test_who_erases_is_rid_of_both(tenant: str | None) -> None:
    store, prefix = both()
    insert(store, text(1), "ours")
    insert(store, text(2), "theirs")
    prefix.erase(tenant)
    assert prefix.drafts is not None
    assert prefix.drafts.match(text(1), "ours") == 0
    assert prefix.drafts.match(text(2), "theirs") == (99 if tenant else 0)
    assert store.draft_nbytes == (100 * DRAFT if tenant else 0)


def test_a_conversation_that_is_forgotten_is_forgotten_here() -> None:
    store, prefix = both()
    for seed in range(2):
        insert(store, text(seed), "ours")
        # The draft model never reads as far as the newest tokens.
        prefix.turn(f"c{seed}", np.append(text(seed), np.int32(5)), "ours", now=50.0 * seed)
    assert prefix.drafts is not None
    prefix.forget_idle(65.0)
    assert [prefix.drafts.match(text(seed), "ours") for seed in range(2)] == [0, 99]
    insert(store, text(2), "ours")
    for name in ("c2", "c3"):
        prefix.turn(name, text(2), "ours", now=70.0)
    assert prefix.drafts.match(text(1), "ours") == 0


def test_only_where_rows_leave_something_is_anything_kept() -> None:
    assert both("strict")[1].drafts is None
    nowhere = CacheDisk("", "", lambda: None, lambda: 0.0)
    off = TenantStore(PromptCache(0), "model", nowhere, both()[0].beside)
    made = PrefixCache(off, snapshots=False, conversations=Conversations(idle_s=None, most=1))
    assert made.drafts is None


def test_its_counts_are_told_beside_the_models() -> None:
    store, prefix = both()
    insert(store, text(1))
    assert prefix.drafts is not None and prefix.drafts.fetch(text(1), "") is not None
    figures = prefix.figures()
    assert (figures["hits"], figures["draft.hits"]) == (0, 1)
    assert (figures["nbytes"], figures["draft.nbytes"]) == (100 * OWN, 100 * DRAFT)
    assert (prefix.nbytes, prefix.draft_nbytes) == (100 * (OWN + DRAFT), 100 * DRAFT)
