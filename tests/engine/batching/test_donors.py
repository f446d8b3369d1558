"""What an answer may be like is given to the tenant that stored it, and to nobody under strict."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache
from numpy.typing import NDArray

from backend.config import Isolation
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.tenant_store import TenantStore
from backend.engine.batching.two_forms import TwoForms
from backend.engine.quantized.conversion import to_codes
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.speculation.row_drafts import LEAD_IN
from mlx_cache import PromptCache
from mlx_cache.below import text_alone
from mlx_cache.payload import MlxPayload

TOKENS = np.arange(100, dtype=np.int32)


def numbers(length: int) -> list[Any]:
    cache = KVCache()
    cache.update_and_fetch(*mx.zeros((2, 1, 1, length, 64)))
    return [cache]


def prefixes(cache: PromptCache, isolation: Isolation = "performance") -> PrefixCache:
    store = TenantStore(cache, "model", CacheDisk("", "", lambda: None, lambda: 0.0))
    return PrefixCache(store, snapshots=False, isolation=isolation, conversations=Conversations(idle_s=None, most=1))


def donor(prefix: PrefixCache, tokens: NDArray[np.int32], tenant: str = "") -> list[int] | None:
    found = prefix.donor(tokens, tenant, 10)
    return None if found is None else found.tolist()


@pytest.mark.parametrize("isolation", ["performance", "balanced"])
def test_only_the_tenant_that_stored_an_answer_is_given_it(isolation: Isolation) -> None:
    prefix = prefixes(PromptCache(payload=MlxPayload()), isolation)
    prefix.insert(TOKENS, numbers(100), "ours")
    assert donor(prefix, TOKENS[:50], "ours") == TOKENS[50 - LEAD_IN : 60].tolist()
    assert donor(prefix, TOKENS[:50], "theirs") is None
    assert donor(prefix, TOKENS[:50]) is None


def test_what_was_stored_under_a_name_for_everybody_gives_others_nothing() -> None:
    prefix = prefixes(PromptCache(payload=MlxPayload()))
    assert prefix.kept.keep("system", TOKENS[:50], numbers(50))
    prefix.insert(TOKENS, numbers(100))
    assert prefix.match(TOKENS[:60], "ours") == 50
    assert donor(prefix, TOKENS[:50], "ours") is None


def test_under_strict_nothing_is_given() -> None:
    prefix = prefixes(PromptCache(payload=MlxPayload()), "strict")
    assert prefix.kept.keep("system", TOKENS, numbers(100))
    assert donor(prefix, TOKENS[:50]) is None


def test_erasing_takes_it_away() -> None:
    prefix = prefixes(PromptCache(payload=MlxPayload()))
    prefix.insert(TOKENS, numbers(100), "ours")
    prefix.erase("ours")
    assert donor(prefix, TOKENS[:50], "ours") is None


def test_a_cache_that_is_off_gives_nothing() -> None:
    assert donor(prefixes(PromptCache(0)), TOKENS) is None


@pytest.mark.parametrize("length", [30, 80])
def test_rows_of_numbers_and_of_codes_are_given_what_the_other_form_holds(length: int) -> None:
    kv = KVFormat(4, 64, 50)
    prefix = prefixes(TwoForms(kv=kv, disk_namespace=text_alone, payload=MlxPayload()))
    prefix.insert(TOKENS, to_codes(numbers(100), kv))
    assert donor(prefix, TOKENS[:length]) == TOKENS[length - LEAD_IN : length + 10].tolist()


def test_a_fault_of_the_cache_costs_the_draft_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(PromptCache):
        def continuation(self, *arguments: Any, **options: Any) -> NDArray[np.int32] | None:
            raise RuntimeError("broken")

    assert donor(prefixes(Broken(payload=MlxPayload())), TOKENS) is None
    assert "what=continuation" in caplog.text
