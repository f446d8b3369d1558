"""What makes a loaded model one over several ranks: where its rows, blocks and bytes are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.memory import MemoryBudget
from backend.engine.loading.kv_cost import KVCost
from backend.engine.loading.loaded import LoadedModel
from backend.engine.ranks.leader import Leader
from backend.engine.ranks.link import Message
from backend.engine.ranks.mirrored import RankBatch, RankCaches, RankModel, RankPayload
from backend.engine.sampling.host.sampler import HostSampler
from mlx_cache.blocks import Layout
from mlx_cache.payload import MlxPayload

_TOKENS = 4096
"""At which ranks compare what a row weighs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverRanks:
    """Engine thread only.

    Attributes:
        kv_tokens: Tokens of KV that the smallest of the other ranks has room for.
        facts: In words, for Info.
    """

    leader: Leader
    model: RankModel
    kv_tokens: int
    facts: Mapping[str, str]

    def new_batch(self, *, mergeable: bool) -> DecodeBatch:
        """A batch of rows on all ranks."""
        return RankBatch(self.leader, self.model, HostSampler(), mergeable=mergeable)

    def payload(self, inner: MlxPayload) -> RankPayload:
        """The prompt cache's payload on all ranks."""
        return RankPayload(self.leader, inner)

    def smallest(self, budget: MemoryBudget) -> MemoryBudget:
        """The budget of the rank that has the least room, in bytes of this one."""
        return replace(budget, total=min(budget.total, bytes_of(self.kv_tokens, budget.cost)))


def tokens_of(total: int, cost: KVCost) -> int:
    """Tokens of KV that so many bytes are on this rank."""
    return int(total / max(1, cost.bytes_for(_TOKENS)) * _TOKENS)


def bytes_of(tokens: int, cost: KVCost) -> int:
    """The inverse of `tokens_of`."""
    return int(tokens / _TOKENS * cost.bytes_for(_TOKENS))


def mirrored(
    loaded: LoadedModel, leader: Leader, reports: Mapping[int, Message], *, kinds: list[Any], facts: Mapping[str, str]
) -> LoadedModel:
    """The loaded shard of rank 0 as the model of all ranks."""
    model = RankModel(leader, loaded.model)
    leader.command("model", handle=model.handle)
    plain: Callable[[], list[Any]] = loaded.new_cache

    def new_cache() -> list[Any]:
        made = RankCaches(leader, plain())
        leader.command("caches", handle=made.handle)
        return made

    speculation = loaded.speculation_reason or _first(reports, "speculation_reason")
    serial = loaded.serial_reason or _first(reports, "serial_reason")
    return replace(
        loaded,
        model=model,
        new_cache=new_cache,
        speculation_reason=speculation,
        serial_reason=serial,
        batchable=not serial,
        uncached_reason=loaded.uncached_reason or _first(reports, "uncached_reason") or _unlike(kinds, reports),
        ranks=OverRanks(
            leader=leader,
            model=model,
            kv_tokens=min(report["kv_tokens"] for report in reports.values()),
            facts=facts,
        ),
    )


def kinds_of(payload: MlxPayload, caches: list[Any], model: Callable[..., mx.array]) -> list[Any]:
    """How the layers of this rank are kept in the prompt cache, in words that ranks compare.

    Args:
        caches: Fresh ones, which are fed a token.
    """
    logits = model(mx.array([[1]]), cache=caches)
    mx.eval(logits, [cache.state for cache in caches])
    layout: Layout = payload.layout(caches)
    return [[[group.kind, group.reach] for group in layout.groups], layout.has_state]


def _first(reports: Mapping[int, Message], name: str) -> str:
    return next((f"rank {rank}: {report[name]}" for rank, report in reports.items() if report[name]), "")


def _unlike(kinds: list[Any], reports: Mapping[int, Message]) -> str:
    unlike = [rank for rank, report in reports.items() if report["kinds"] != kinds]
    return f"rank {unlike[0]} has layers of other kinds than rank 0" if unlike else ""
