"""Many threads at once: no error, no lost pin, exact accounts, no foreign content."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from mlx_cache import PromptCache
from tests.mlx_cache.fake import LAYOUTS, FakeCache, FakePayload
from tests.mlx_cache.oracle import check_consistent, check_content

THREADS = 8


@pytest.fixture(autouse=True)
def often_switched() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], None]) -> None:
    """Run on all threads from one starting line; the first error is raised here."""
    errors: list[BaseException] = []
    line = threading.Barrier(THREADS)

    def guarded(number: int) -> None:
        line.wait(60)
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [pytest.param("plain", marks=pytest.mark.exhaustive), "window-hybrid"])
def test_eight_threads_of_ten_thousand_calls_each_leave_it_exact(layout: str) -> None:
    store = PromptCache(max_bytes=900, max_size=25, payload=FakePayload(), block_tokens=4)
    pinned = [2, 1, 0, 2, 1]
    store.insert("pinned", pinned, FakeCache.after(LAYOUTS[layout], "pinned", pinned))
    assert store.pin("system", "pinned", pinned) == 5
    lost = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for step in range(3400):
            space = rng.choice(["a", "b", "pinned"])
            tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
            fetched = store.fetch(space, [*tokens, 0])
            if fetched.caches is not None:
                check_content(fetched.caches, space, [*tokens, 0][: fetched.length])
            store.insert(space, tokens, FakeCache.after(LAYOUTS[layout], space, tokens))
            behind = store.continuation(space, tokens, 5)
            assert behind is None or 1 <= len(behind) <= 5
            if store.match_length("pinned", [*pinned, 0]) < 5:
                lost.append((number, step))
            if step % 100 == 99:
                store.trim_to(n_bytes=rng.randrange(900))
            if step % 300 == 299:
                store.clear(rng.choice(["a", "b"]))
            if step % 50 == 0:
                store.pin(f"p{number}", space, tokens)

    together(work)
    assert not lost
    for number in range(THREADS):
        store.unpin(f"p{number}")
    check_consistent(store)
    stats = store.stats()
    assert stats["fetches"] == THREADS * 3400
    assert stats["evicted_blocks"] > 100 and stats["hits"] > 1000
    assert store.nbytes <= 900


def test_threads_that_store_one_sequence_store_it_once() -> None:
    meeting = threading.Barrier(THREADS)
    first = threading.local()

    def all_copy_at_once() -> None:
        if not getattr(first, "met", False):
            first.met = True
            meeting.wait(60)

    store = PromptCache(payload=FakePayload(all_copy_at_once))
    tokens = [0, 1, 2] * 10
    together(lambda n: _accepted(store.insert("m", tokens, FakeCache.after(LAYOUTS["plain"], "m", tokens)).length))
    assert store.nbytes == 3 * len(tokens) and len(store) == 1
    check_consistent(store)


def _accepted(length: int) -> None:
    assert length == 30


def test_mlx_caches_cross_threads_evaluated() -> None:
    store = PromptCache(max_bytes=1 << 20)

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(20):
            system = int(rng.integers(4))
            tokens = np.concatenate([np.full(64, system), rng.integers(0, 3, 8)])
            fetched = store.fetch("m", tokens)
            if fetched.caches is not None:
                held = fetched.caches[0].keys[0, 0, : fetched.length, 0]
                assert held.tolist() == tokens[: fetched.length].tolist()
            cache = KVCache()
            entries = mx.broadcast_to(mx.array(tokens.astype(np.float32))[None, None, :, None], (1, 1, len(tokens), 8))
            cache.update_and_fetch(entries, entries)
            store.insert("m", tokens, [cache])

    together(work)
    check_consistent(store)


def test_nothing_waits_for_a_copy() -> None:
    copying, go_on = threading.Event(), threading.Event()

    def copy() -> None:
        copying.set()
        assert go_on.wait(60)

    payload = FakePayload()
    store = PromptCache(payload=payload)
    store.insert("m", [1, 2, 3], FakeCache.after(LAYOUTS["plain"], "m", [1, 2, 3]))
    payload.during_copy = copy
    slow = threading.Thread(
        target=store.insert, args=("m", [1, 2, 4], FakeCache.after(LAYOUTS["plain"], "m", [1, 2, 4]))
    )
    slow.start()
    assert copying.wait(60)
    # The copy is under way; every call that copies nothing answers.
    assert store.match_length("m", [1, 2, 3, 0]) == 3
    assert len(store) == 1 and store.nbytes == 9
    store.trim_to(n_bytes=0)
    # The prefix that the insert extends is held, the rest could go.
    assert store.match_length("m", [1, 2, 3, 0]) >= 2
    go_on.set()
    slow.join(60)
    assert store.match_length("m", [1, 2, 4, 0]) == 3
    check_consistent(store)
