"""What the prompt cache must have, and must not have any more: names, conversations, and the very numbers."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, QuantizedKVCache
from numpy.typing import NDArray

from backend.engine.batching.session import Session
from tests.engine.machine.alone import Alone
from tests.engine.machine.asked import WITHIN, Asked
from tests.engine.machine.wishes import GROUP, Load
from tests.models import QUICK_FAMILIES

Tokens = NDArray[np.int32]
# The first layer's keys depend on each token and its place alone: whatever was hit, they are what they are.
FIRST_IS_PLAIN = "qwen3"
assert FIRST_IS_PLAIN in QUICK_FAMILIES


@dataclass(slots=True)
class Names:
    """What of it stands in the engine, of this load.

    Attributes:
        held: By tenant and name the tokens, and whether memory must have them.
        sure: Nothing has failed that could have cost a name.
    """

    held: dict[tuple[str, str], tuple[Tokens, bool]] = field(default_factory=dict)
    sure: bool = True

    def check(self, session: Session) -> None:
        """The engine has these names, and what they hold."""
        kept = session.prefix.kept
        there = {(named.tenant, named.name): named.tokens for named in kept.names}
        if not self.sure:
            self.held = {key: (tokens, False) for key, tokens in there.items()}
            return
        assert there.keys() == self.held.keys(), (there.keys(), self.held.keys())
        for (tenant, name), (tokens, held) in self.held.items():
            assert np.array_equal(there[tenant, name], tokens), name
            key, asked = session.prefix._store.key_of(tenant), np.append(tokens, np.int32(1))
            assert not held or session.prefix._store.cache.match_length(key, asked) >= len(tokens), (tenant, name)

    def least(self, tokens: Tokens, tenant: str, load: Load) -> int:
        """Tokens of a prompt that a name has, at least, for whoever asks now."""
        if load.isolation == "strict" or not self.sure:
            return 0
        whose = {tenant, ""} if load.isolation == "performance" else {tenant}
        lengths = (
            len(named)
            for (owner, _), (named, held) in self.held.items()
            if held and owner in whose and len(named) < len(tokens) and np.array_equal(named, tokens[: len(named)])
        )
        return max(lengths, default=0)

    def of_everybody(self) -> list[Tokens]:
        """What others than its tenant may hit."""
        return [tokens for (tenant, _), (tokens, _) in self.held.items() if not tenant]


def forgotten(session: Session, asked: list[Asked], load: Load, now: float, *, sure: bool) -> set[tuple[str, str]]:
    """The conversations of this load that the engine does not know any more, each for a reason that it has.

    Args:
        asked: Of this load, all of them over for some time.
        sure: Nothing has failed, or was cleared, that could have cost one.
    """
    conversations = session.prefix._conversations._conversations
    # Without a disk an id is its own key.
    there = set(conversations._kept)
    key = session.prefix._store.disk.conversation_key
    last: dict[tuple[str, str], float] = {}
    whole: dict[tuple[str, str], float] = {}
    for one in asked:
        if one.wish.talk:
            talk = (one.wish.tenant, one.wish.talk)
            last[talk] = max(last.get(talk, 0.0), one.over_at)
            if one.end is not None and not one.wish.read_only and one.wish.keeps_answer:
                whole[talk] = max(whole.get(talk, 0.0), one.came_at)
    assert len(there) <= load.talks
    gone = {talk for talk in last if (talk[0], key(*talk)) not in there}
    for talk in last.keys() - gone:
        assert load.idle_s is None or now - last[talk] <= load.idle_s + 1, (talk, last[talk], now)
    if sure and session.prefix.keeps:
        for talk in gone & whole.keys():
            idle = load.idle_s is not None and now - whole[talk] > load.idle_s - 1
            assert idle or len(last) > load.talks, (talk, now, whole[talk])
    return gone


def check_stored(session: Session, load: Load, family: str, alone: Alone, tokens: Tokens, tenant: str) -> None:
    """What is stored of a sequence are the model's own keys and values of it."""
    store = session.prefix._store
    fetched = store.cache.fetch(store.key_of(tenant), np.append(tokens, np.int32(1)))
    if fetched.caches is None:
        return
    n = fetched.length
    cold = alone.read(tokens.tolist(), None)[1]
    for place, (ours, theirs) in enumerate(zip(fetched.caches, cold, strict=True)):
        bits = load.kv[0] if load.kv is not None else load.stored_bits
        if type(theirs) is not KVCache or (bits is not None and (place or family != FIRST_IS_PLAIN)):
            continue
        for mine, right in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert right is not None
            wanted = right[..., :n, :]
            if bits is not None and not (type(ours) is KVCache and load.kv is not None):
                codes, scales, biases = mx.quantize(wanted, GROUP, bits)
                wanted = mx.dequantize(codes, scales, biases, GROUP, bits)
            apart = np.abs(_numbers(ours, mine, n, bits) - np.array(wanted)).max(axis=(0, 1, 3))
            assert apart.max() <= WITHIN, (load, tokens, tenant, place, n, apart)


def _numbers(cache: Any, array: Any, n: int, bits: int | None) -> NDArray[np.float32]:
    if type(cache) is QuantizedKVCache:
        codes, scales, biases = (part[..., :n, :] for part in array)
        return np.array(mx.dequantize(codes, scales, biases, GROUP, bits))
    return np.array(array[..., :n, :])
