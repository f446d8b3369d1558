"""What a rank that follows makes of rank 0's messages, without sockets: after any operations it holds the same."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.row import Row
from backend.engine.kv.row_caches import copied
from backend.engine.loading import LoadedModel, load_model
from backend.engine.ranks.leader import Leader
from backend.engine.ranks.mirrored import RankBatch, RankCaches, RankModel, RankPayload
from backend.engine.ranks.shards import Diverged, Shards
from backend.engine.ranks.world import World
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.waits import wait
from mlx_cache import PromptCache
from mlx_cache.payload import MlxPayload
from tests.engine.batching.test_batch import prefilled
from tests.engine.harness import model_config
from tests.models import QUICK_FAMILIES, write_model


class Direct(Leader):
    """Rank 0's side with one other rank, which does at once what it is told."""

    def __init__(self, shards: Shards) -> None:
        world = World(rank=0, size=1, backend="ring", control=("127.0.0.1", 1), token="x")
        super().__init__(world, lambda reason: None)
        self.shards = shards
        self.ops: list[str] = []

    def _send_all(self, messages: list[dict[str, Any]]) -> None:
        for message in json.loads(json.dumps(messages)):
            self.ops.append(message["op"])
            if message["op"] == "drop":
                self.shards.drop(message["handles"])
            elif message["op"] != "model":
                self.shards.do(message)

    def check(self) -> None:
        """Compare now."""
        self._compared = -(1 << 30)
        self.compare_now_and_then()


class Pair:
    """Rank 0 and the other, over one model."""

    def __init__(self, loaded: LoadedModel) -> None:
        payload = MlxPayload(loaded.kept_whole, evaluate=wait)
        self.leader = Direct(Shards(loaded.model, loaded.new_cache, payload, lambda: None, lambda: None))
        self.model = RankModel(self.leader, loaded.model)
        self.loaded = replace(loaded, model=self.model, new_cache=self._new_cache(loaded))
        self.cache = PromptCache(None, None, payload=RankPayload(self.leader, payload))
        self.batch = RankBatch(self.leader, self.model, HostSampler(), mergeable=True)

    def _new_cache(self, loaded: LoadedModel) -> Any:
        def new_cache() -> RankCaches:
            made = RankCaches(self.leader, loaded.new_cache())
            self.leader.command("caches", handle=made.handle)
            return made

        return new_cache

    def same(self) -> None:
        """Assert that both hold the same, to the bit."""
        self.leader.check()
        equal(self.batch._caches, self.leader.shards._held[self.batch.handle]._caches)


def equal(ours: list[Any], theirs: list[Any]) -> None:
    """Assert that layer caches hold the same, to the bit."""
    mine, other = (tree_flatten([cache.state for cache in caches]) for caches in (ours, theirs))
    for (_, one), (_, another) in zip(mine, other, strict=True):
        if isinstance(one, mx.array) and isinstance(another, mx.array):
            assert mx.array_equal(one, another, equal_nan=True).item()
        else:
            assert one is another is None or one == another


@pytest.mark.parametrize("family", QUICK_FAMILIES)
def test_the_other_rank_holds_the_same_after_any_operations(family: str, tmp_path: Path) -> None:
    pair = Pair(load_model(model_config(write_model(tmp_path / family, family))))
    drawn, batch = random.Random(family), pair.batch
    for _ in range(40):
        kind = drawn.choice(("join", "join", "step", "step", "verify", "leave", "store", "restore"))
        if kind == "join" and len(batch) < 4:
            batch.join([prefilled(pair.loaded, drawn.randrange(3))])
        elif kind == "restore" and len(batch) < 4:
            restore(pair, drawn.randrange(3))
        elif batch.rows:
            act(pair, kind, drawn)
        if batch.rows:
            pair.same()
    assert {"caches", "chunk", "join", "step", "verify", "keep", "leave", "view", "blocks", "drop"} <= {
        *pair.leader.ops
    }


def act(pair: Pair, kind: str, drawn: random.Random) -> None:
    """One operation on rows that are there."""
    batch = pair.batch
    if kind == "step":
        batch.step()
    elif kind == "verify":
        verification = batch.verify([guess(pair, row, drawn) for row in batch.rows])
        while verification.next():
            pass
        verification.close()
        batch.settle()
    elif kind == "leave":
        batch.leave(drawn.sample(batch.rows, drawn.randrange(1, len(batch) + 1)))
    else:
        row = drawn.choice(batch.rows)
        batch.settle()
        seen = batch.view(row)
        assert isinstance(seen, RankCaches)
        equal(seen, pair.leader.shards._held[seen.handle])
        pair.cache.insert("model", covered(row), seen)


def guess(pair: Pair, row: Row, drawn: random.Random) -> list[int]:
    """Tokens that may follow a row's newest, of which none, one or two are those that will."""
    alone = HostBatch(pair.model.shard, HostSampler(), mergeable=True)
    caches = [copied(cache) for cache in HostBatch.view(pair.batch, row)]
    alone.join([replace(row, caches=caches, sampling=copy.deepcopy(row.sampling))])
    right = [alone.step()[0].token for _ in range(drawn.randrange(3))]
    return [*right, drawn.randrange(9)]


def covered(row: Row) -> np.ndarray:
    """The tokens that a row's KV is of; of a row without a request, what was drawn is in `sampling` alone."""
    tail = np.arange(row.covered - len(row.feed) + 1) % 250
    return np.concatenate([row.feed[:-1], tail]).astype(np.int32)


def restore(pair: Pair, index: int) -> None:
    """A row that goes on from what the prompt cache has of its prompt, if that has all of it."""
    row = prefilled(pair.loaded, index)
    fetched = pair.cache.fetch("model", row.feed)
    if fetched.length == row.covered:
        row.caches = fetched.caches
        pair.batch.join([row])


def test_a_rank_that_holds_something_else_is_found(tmp_path: Path) -> None:
    pair = Pair(load_model(model_config(write_model(tmp_path / "qwen3", "qwen3"))))
    pair.batch.join([prefilled(pair.loaded, 0)])
    pair.batch.step()
    pair.leader.check()
    pair.leader.shards._held[pair.batch.handle].rows[0].covered += 1
    with pytest.raises(Diverged):
        pair.leader.check()
    pair.leader.shards._held[pair.batch.handle].rows[0].covered -= 1
    pair.leader.check()
    pair.leader.shards._held.pop(pair.batch.handle)
    with pytest.raises(Diverged):
        pair.leader.check()


def test_what_is_gone_on_rank_0_is_dropped_on_the_other(tmp_path: Path) -> None:
    pair = Pair(load_model(model_config(write_model(tmp_path / "qwen3", "qwen3"))))
    held = pair.leader.shards._held
    kept = pair.loaded.new_cache()
    before = len(held)
    for _ in range(5):
        pair.loaded.new_cache()
    pair.leader.flush()
    assert len(held) == before
    assert kept.handle in held  # type: ignore[attr-defined]
