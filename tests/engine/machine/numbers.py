"""Requests for numbers: what is asked, what the model gives by itself, and whether an end is right."""

import asyncio
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from backend.core.errors import DeadlineExceeded, InternalFault, RequestAborted, RequestCancelled, WorkerError
from backend.core.events import Finished
from backend.core.pooled import EmbedAsk, PooledRequest, Relevances, RerankAsk, ScoreAsk, Scores, Vectors
from backend.engine.preparing.pooled import PooledPreparer
from backend.engine.quantized.kv_format import KVFormat
from tests.engine.machine.alone import Alone
from tests.engine.machine.asked import WITHIN
from tests.engine.machine.wishes import PROMPTS
from tests.straight import Straight

CANDIDATES = ("e", " and on", "", " and then some more of it, which is longer")


@dataclass(frozen=True, slots=True)
class Question:
    """A request but for its name and its deadline."""

    ask: EmbedAsk | ScoreAsk | RerankAsk
    tenant: str = ""
    priority: int = 0

    def request(self, name: str, deadline: float | None) -> PooledRequest:
        """For the engine."""
        return PooledRequest(
            request_id=name, ask=self.ask, tenant=self.tenant, priority=self.priority, deadline=deadline
        )


ASKS = st.one_of(
    st.builds(EmbedAsk, text=st.sampled_from(PROMPTS)),
    st.builds(
        ScoreAsk,
        prompt=st.sampled_from(PROMPTS),
        candidates=st.lists(st.sampled_from(CANDIDATES), max_size=3).map(tuple),
    ),
    st.builds(
        RerankAsk,
        query=st.sampled_from(("a", "short, and then some")),
        documents=st.sampled_from((PROMPTS[:2], PROMPTS[2:6], PROMPTS[3:4])),
    ),
).filter(lambda ask: not isinstance(ask, ScoreAsk) or bool(ask.candidates))
QUESTIONS = st.builds(
    Question, ask=ASKS, tenant=st.sampled_from(("", "a", "b")), priority=st.sampled_from((0, 0, 2, -1))
)


def prompt_of(question: Question, pooled: PooledPreparer) -> NDArray[np.int32]:
    """What of it the prompt cache may look up, and keep."""
    if isinstance(question.ask, ScoreAsk):
        return np.frombuffer(question.ask.prompt.encode(), np.uint8).astype(np.int32)
    return pooled.prepare(question.ask)[0].tokens


def right_numbers(
    question: Question, pooled: PooledPreparer, alone: Alone, straight: Straight, kv: KVFormat | None
) -> list[NDArray[np.float32]]:
    """What a question should be answered, a row of numbers for each of its parts.

    Args:
        pooled: What says how a document is shown to a model that answers yes or no.
    """
    match question.ask:
        case EmbedAsk(text=text):
            return [straight.vector(text.encode())]
        case ScoreAsk(prompt=prompt, candidates=candidates):
            read = [list((prompt + candidate).encode()) for candidate in candidates]
            # Candidates are held as their prompt is, whose last token runs with them.
            form = kv if kv is not None and kv.is_codes(len(prompt) - 1) else None
            return [alone.logprobs(tokens, len(prompt), form) for tokens in read]
        case RerankAsk(query=query, documents=documents) if pooled.rerank_way == "yes_no":
            before, after = pooled._around(query)
            shown = [pooled.prompts.encode(before + text + after, add_special_tokens=False) for text in documents]
            # What they begin with alike is longer than any length from which on rows hold codes.
            return [alone.chance(tokens.tolist(), kv) for tokens in shown]
        case RerankAsk(query=query, documents=documents):
            first = straight.vector(query.encode())
            return [np.array([straight.vector(text.encode()) @ first], np.float32) for text in documents]


def _numbers(end: Finished) -> list[NDArray[np.float32]]:
    match end.result:
        case Vectors(data=data, count=count, dim=dim):
            return list(np.frombuffer(data, "<f4").reshape(count, dim))
        case Scores(candidates=candidates):
            return [np.array([token.logprob for token in tokens], np.float32) for tokens in candidates]
        case Relevances(values=values):
            return [np.array([value], np.float32) for value in values]
        case _:
            raise AssertionError(end)


@dataclass(slots=True, kw_only=True)
class Computed:
    """One question from its submission to its end.

    Attributes:
        prompt: What of it the prompt cache may look up, and keep.
        hit: Tokens of its prompt that the prompt cache may have had, at most.
    """

    name: str
    question: Question
    prompt: NDArray[np.int32]
    right: list[NDArray[np.float32]]
    task: "asyncio.Task[Finished]"
    deadline: float | None
    hit: int
    aborted: bool = False
    cancelled: bool = False
    checked: bool = False

    @property
    def over(self) -> bool:
        """Nothing more comes."""
        return self.task.done()

    def check(self, now: float, *, lost: bool, exact: bool) -> None:
        """As `Asked.check`.

        Args:
            exact: No part of it may come from codes.
        """
        self.checked = True
        if self.task.cancelled():
            assert self.cancelled, self
            return
        match self.task.exception():
            case None:
                end = self.task.result()
                assert not lost, self
                assert end.usage.cached_tokens <= self.hit, (self, end.usage)
                if exact or not end.usage.cached_tokens:
                    for ours, theirs in zip(_numbers(end), self.right, strict=True):
                        assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=WITHIN), (self, ours)
            case InternalFault() as error:
                assert lost and "planted" not in error.message, (self, error)
            case DeadlineExceeded():
                assert self.deadline is not None and self.deadline <= now, self
            case RequestAborted():
                assert self.aborted, self
            case RequestCancelled():
                assert self.cancelled, self
            case WorkerError() as error:
                raise AssertionError((self, error))
            case error:
                raise AssertionError((self, error))
