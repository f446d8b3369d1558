"""With the prompt cache on, every answer still equals a cold single run's.

Conversations continue, repeat, regenerate, edit, branch and are cancelled at random, under budgets small enough
to evict all the time. What is compared is every logprob of every token, for every family of caches.
"""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Conversation, GenerationRequest, Message, Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.models import write_model
from tests.rounding import tolerance
from tests.tiers import families_by_batch

CHUNK = 32
# Bitwise for KV that is cut by token and for gated-delta states. The others differ in the last bits from a cold
# run: mlx-lm reads a prompt's single tokens into a wrapped window in another order than its chunks, and a Mamba state
# that decoding left behind was built token by token where a cold prompt is scanned in chunks.
WITHIN = {"gemma3_text": 1e-4, "gpt_oss": 1e-4, "mamba2": 1e-4, "falcon_h1": 1e-4}


def words(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choices("abcdefghij ,.", k=rng.randrange(low, high)))


class Client:
    """One user with one conversation; asks, and sometimes edits, repeats or regenerates."""

    def __init__(self, seed: int, system: str) -> None:
        self.rng = random.Random(seed)
        self.name = f"c{seed}"
        self.history = [Message(role="system", content=system)]
        self.asked: list[GenerationRequest] = []

    def next_request(self) -> GenerationRequest:
        """The next thing this user does; the first is always a question."""
        action = (
            self.rng.choice(("go on", "go on", "repeat", "regenerate", "edit", "branch")) if self.asked else "go on"
        )
        if action == "repeat":
            return self._ask(self.asked[-1].sampling)
        if action == "regenerate":
            return self._ask(self._sampling())
        if action == "edit":
            self.history[-1] = Message(role="user", content=words(self.rng, 5, 60))
        elif action == "branch" and len(self.history) > 3:
            del self.history[2:]
            self.history[-1] = Message(role="user", content=words(self.rng, 5, 60))
        else:
            self.history.append(Message(role="user", content=words(self.rng, 5, 60)))
        return self._ask(self._sampling())

    def hear(self, text: str) -> None:
        """Keep the answer in the history before the next question."""
        if self.rng.random() < 0.7:
            self.history.append(Message(role="assistant", content=text))

    def _sampling(self) -> Sampling:
        if self.rng.random() < 0.4:
            return Sampling()
        return Sampling(temperature=1.0, top_p=0.95, seed=self.rng.randrange(2**31))

    def _ask(self, sampling: Sampling) -> GenerationRequest:
        prompt = Conversation(messages=tuple(self.history))
        self.asked.append(request(prompt, n=self.rng.randrange(3, 14), name=self.name, sampling=sampling))
        return self.asked[-1]


async def live(engine: EngineHandle, client: Client, turns: int) -> list[tuple[GenerationRequest, Answer]]:
    answers: list[tuple[GenerationRequest, Answer]] = []
    for _ in range(turns):
        wanted = client.next_request()
        if client.rng.random() < 0.2:
            await read(engine, wanted, cancel_after=1)
        answer = await read(engine, wanted)
        assert answer.error is None, answer.error
        answers.append((wanted, answer))
        client.hear(answer.text)
    return answers


def differences(
    family: str,
    tmp_path: Path,
    *,
    sampler: str,
    budget: int,
    clients: int,
    turns: int,
    extra: Mapping[str, Any] | None = None,
    **codes: int,
) -> tuple[list[float], float]:
    """The largest difference of a logprob in each answer, and the share of prompt tokens that came from the cache."""
    path = write_model(tmp_path / family, family, extra=extra)
    options = EngineConfig(prefill_chunk=CHUNK, max_rows=4, sampler=sampler, **codes)  # type: ignore[arg-type]
    warm = model_config(path, engine=options, cache=CacheConfig(max_bytes=budget))
    cold = model_config(path, engine=options)

    async def crowd(engine: EngineHandle) -> tuple[list[tuple[GenerationRequest, Answer]], float]:
        users = [Client(seed, "You are one of several. " * 3) for seed in range(clients)]
        lives = await asyncio.gather(*(live(engine, user, turns) for user in users))
        queue = engine.info().queue
        return [pair for answers in lives for pair in answers], queue["cached_tokens"] / queue["prompt_tokens"]

    seen, share = with_engine(warm, crowd)

    async def alone(engine: EngineHandle) -> list[Answer]:
        return [await read(engine, wanted) for wanted, _ in seen]

    worst: list[float] = []
    for (_, ours), theirs in zip(seen, with_engine(cold, alone), strict=True):
        assert ours.tokens == theirs.tokens
        pairs = zip(ours.logprobs, theirs.logprobs, strict=True)
        worst.append(max(abs(a.logprob - b.logprob) for a, b in pairs))
        if tolerance(family, WITHIN) == 0:
            assert ours.logprobs == theirs.logprobs
    return worst, share


@pytest.mark.parametrize(
    ("family", "sampler"),
    families_by_batch([("qwen3_next", "host")]),
)
def test_conversations_over_a_small_cache_answer_as_if_cold(family: str, sampler: str, tmp_path: Path) -> None:
    worst, share = differences(family, tmp_path, sampler=sampler, budget=400_000, clients=4, turns=5)
    assert max(worst) <= tolerance(family, WITHIN)
    assert share > 0.1, "nothing was reused: the test shows nothing"
