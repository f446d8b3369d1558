"""Made traces of chat requests, one shape each: what other users of a prompt cache look like. Seeded, and small.

A request is a list of block ids, as in the public trace: an id stands for a block of 512 tokens and everything before
it, so that the same text behind another head has another id.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

BLOCK = 512


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: the ids of its blocks, and its length in tokens."""

    blocks: list[int]
    length: int

    def tokens(self) -> NDArray[np.int32]:
        """Each block's id, repeated. The last block may be partial in truth; whole, it is equal wherever it recurs."""
        return np.repeat(np.asarray(self.blocks, np.int32), BLOCK)


class Texts:
    """Gives out text that was never seen, and turns sequences of texts into chained block ids."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._ids: dict[tuple[int, int], int] = {}
        self._texts = 0

    def fresh(self, n_blocks: int) -> list[int]:
        """New text of this many blocks."""
        self._texts += n_blocks
        return list(range(self._texts - n_blocks, self._texts))

    def request(self, text: Sequence[int]) -> Request:
        """A prompt of this text; the last block is filled in part."""
        ids = list[int]()
        for piece in text:
            above = ids[-1] if ids else -1
            ids.append(self._ids.setdefault((above, piece), len(self._ids)))
        return Request(ids, len(ids) * BLOCK - self.rng.randrange(BLOCK - 1))

    def size(self, mean: float) -> int:
        """A number of blocks from one up, a few of them large."""
        return 1 + min(int(self.rng.lognormvariate(0, 1) * mean / 1.65), int(12 * mean))


def zipf(n: int, s: float) -> list[float]:
    """Cumulative weights of n things, the k-th of weight k ** -s, for `random.choices`."""
    return list(accumulate((k + 1) ** -s for k in range(n)))


Requests = Iterator[Request]


def agents(texts: Texts) -> Requests:
    """Agents at work at once: each turn adds a tool's output, some are tried again from an earlier turn."""
    rng = texts.rng
    heads = [texts.fresh(rng.randint(4, 20)) for _ in range(rng.randint(1, 4))]
    n_live, turns = rng.randint(4, 30), rng.randint(5, 40)
    live: list[list[int]] = []
    while True:
        if len(live) < n_live:
            live.append(rng.choice(heads) + texts.fresh(texts.size(2)))
        at = rng.randrange(len(live))
        yield texts.request(live[at])
        if rng.random() < 0.1:
            live[at] = live[at][: max(1, len(live[at]) - texts.size(4))]
        live[at] = live[at] + texts.fresh(texts.size(1.5))
        if rng.random() < 1 / turns:
            live.pop(at)


def system_prompts(texts: Texts) -> Requests:
    """Few long system prompts, each with short questions that come once."""
    rng = texts.rng
    heads = [texts.fresh(texts.size(20)) for _ in range(rng.randint(3, 40))]
    weights = zipf(len(heads), rng.uniform(0.3, 1.5))
    while True:
        (head,) = rng.choices(heads, cum_weights=weights)
        yield texts.request(head + texts.fresh(rng.randint(1, 2)))


def scans(texts: Texts) -> Requests:
    """Conversations, and between them documents that are read once."""
    rng = texts.rng
    chats, share = conversations(texts), rng.uniform(0.1, 0.6)
    burst = 0
    while True:
        burst = max(0, burst - 1) or (rng.random() < share / 4) * rng.randint(1, 8)
        yield texts.request(texts.fresh(texts.size(30))) if burst else next(chats)


def rag(texts: Texts) -> Requests:
    """A shared head, then passages from a pool in varying order, then a question."""
    rng = texts.rng
    head = texts.fresh(rng.randint(1, 4))
    pool = [texts.fresh(rng.randint(1, 2)) for _ in range(rng.randint(20, 300))]
    weights = zipf(len(pool), rng.uniform(0.6, 1.4))
    while True:
        passages = rng.choices(pool, cum_weights=weights, k=rng.randint(2, 6))
        yield texts.request(head + [block for passage in passages for block in passage] + texts.fresh(1))


def shifting(texts: Texts) -> Requests:
    """A set of prompts that everybody uses, and then another one."""
    rng = texts.rng
    n, lasts = rng.randint(5, 40), rng.randint(50, 400)
    weights, skew = zipf(n, rng.uniform(0.0, 1.2)), texts.size(8)
    while True:
        prompts = [texts.fresh(texts.size(skew)) for _ in range(n)]
        for _ in range(lasts):
            (prompt,) = rng.choices(prompts, cum_weights=weights)
            yield texts.request(prompt + texts.fresh(rng.randint(1, 3)))


def drifting(texts: Texts) -> Requests:
    """Prompts whose popularity comes and goes one by one."""
    rng = texts.rng
    n, pace = rng.randint(10, 60), rng.uniform(0.01, 0.2)
    weights = zipf(n, rng.uniform(0.3, 1.3))
    prompts = [texts.fresh(texts.size(10)) for _ in range(n)]
    while True:
        if rng.random() < pace:
            prompts.insert(rng.randrange(1 + n // 4), texts.fresh(texts.size(10)))
            prompts.pop()
        (prompt,) = rng.choices(prompts, cum_weights=weights)
        yield texts.request(prompt + texts.fresh(1))


def loops(texts: Texts) -> Requests:
    """The same documents again and again in one order, which is LRU's worst; now and then the list changes."""
    rng = texts.rng
    n, rounds = rng.randint(10, 120), rng.randint(2, 8)
    while True:
        documents = [texts.fresh(texts.size(10)) for _ in range(n)]
        for _ in range(rounds):
            for document in documents:
                yield texts.request(document + texts.fresh(1))


def conversations(texts: Texts) -> Requests:
    """Chats that grow by a turn; which one goes on follows Zipf's law by how lately it was used."""
    rng = texts.rng
    head, new = texts.fresh(rng.randint(0, 6)), rng.uniform(0.1, 0.6)
    chats: list[list[int]] = []
    weights = zipf(2000, rng.uniform(0.8, 1.6))
    while True:
        n = min(len(chats), len(weights))
        if not n or rng.random() < new:
            chat = head + texts.fresh(texts.size(5))
        else:
            (at,) = rng.choices(range(n), cum_weights=weights[:n])
            chat = chats.pop(-1 - at) + texts.fresh(texts.size(1))
        yield texts.request(chat)
        chats.append(chat)


def zipf_conversations(texts: Texts) -> Requests:
    """A fixed crowd of chats of fixed popularity, each of which starts anew when it is long."""
    rng = texts.rng
    n, longest = rng.randint(20, 400), rng.randint(10, 60)
    weights = zipf(n, rng.uniform(0.5, 1.3))
    chats: list[list[int]] = [[] for _ in range(n)]
    while True:
        (at,) = rng.choices(range(n), cum_weights=weights)
        chats[at] = (chats[at] if len(chats[at]) < longest else []) + texts.fresh(texts.size(1.5))
        yield texts.request(chats[at])


def documents(texts: Texts) -> Requests:
    """Long documents, each asked about a few times in a row, some again much later."""
    rng = texts.rng
    read: list[list[int]] = []
    again, questions = rng.uniform(0.0, 0.4), rng.randint(1, 8)
    while True:
        back = read and rng.random() < again
        document = rng.choice(read) if back else texts.fresh(texts.size(20))
        read.append(document)
        for _ in range(rng.randint(1, questions)):
            yield texts.request(document + texts.fresh(1))


def faded(texts: Texts) -> Requests:
    """Prompts used very often and then never again, before chats used a little: what counting uses gets wrong."""
    rng = texts.rng
    while True:
        hot = [texts.fresh(texts.size(15)) for _ in range(rng.randint(2, 10))]
        for _ in range(rng.randint(30, 150)):
            yield texts.request(rng.choice(hot) + texts.fresh(1))
        chats = conversations(texts)
        for _ in range(rng.randint(100, 300)):
            yield next(chats)


SHAPES: dict[str, Callable[[Texts], Requests]] = {
    shape.__name__: shape
    for shape in (
        agents, system_prompts, scans, rag, shifting, drifting, loops, conversations, zipf_conversations, documents,
        faded,
    )
}  # fmt: skip


def made(shape: str, seed: int, n: int = 1000) -> list[Request]:
    """The first n requests of a shape."""
    requests = SHAPES[shape](Texts(random.Random(f"{shape} {seed}")))
    return [next(requests) for _ in range(n)]


def mixed(seed: int, n: int = 1000) -> list[Request]:
    """Two to four shapes at once, their shares changing on the way."""
    rng = random.Random(f"mixed {seed}")
    texts = Texts(rng)
    parts = [SHAPES[name](texts) for name in rng.sample(sorted(SHAPES), rng.randint(2, 4))]
    out: list[Request] = []
    while len(out) < n:
        weights = list(accumulate(rng.expovariate(1) for _ in parts))
        out += [next(rng.choices(parts, cum_weights=weights)[0]) for _ in range(rng.randint(50, 500))]
    return out[:n]


def distinct_blocks(requests: list[Request]) -> int:
    """How many blocks a cache without a limit would hold."""
    return len({block for request in requests for block in request.blocks})
