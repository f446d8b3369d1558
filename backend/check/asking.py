"""Requests to the engine, as its servicer makes them, and what their clients see."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.core.errors import WorkerError
from backend.core.events import Delta, Failed, Finished, TokenLogprob
from backend.core.request import GenerationRequest, Sampling
from backend.engine.handle import EngineHandle

SAMPLED = Sampling(temperature=0.8, top_p=0.95, top_k=40, seed=1)
# Tokens that all rows must have drawn together for a rate.
_LEAST_WINDOW = 8


class NotMeasured(Exception):
    """A figure cannot be had here; the message says why. Nothing is wrong."""


@dataclass(slots=True)
class Asked:
    """One request from its client's side.

    Attributes:
        points: When how many tokens of the answer were known: seconds of `time.perf_counter`, tokens.
    """

    began: float
    text: str = ""
    end: Finished | None = None
    error: WorkerError | None = None
    points: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of every token, where they were asked for."""
        if self.end is None:
            raise self.error or RuntimeError("the answer has no end")
        return self.end.logprobs

    @property
    def tokens(self) -> list[int]:
        """Ids of every token, where logprobs were asked for."""
        return [entry.id for entry in self.logprobs]

    @property
    def first_seconds(self) -> float:
        """From the request to the first token that was seen."""
        return self.points[0][0] - self.began

    @property
    def seconds(self) -> float:
        """From the request to its end."""
        return self.points[-1][0] - self.began


def request(
    name: str,
    prompt: str,
    tokens: int,
    *,
    sampling: Sampling | None = None,
    logprobs: int | None = None,
    stored: bool = True,
    deadline: float | None = None,
) -> GenerationRequest:
    """A request, greedy unless it says otherwise; `stored` is whether it leaves anything in the prompt cache."""
    return GenerationRequest(
        request_id=name,
        prompt=prompt,
        max_tokens=tokens,
        sampling=sampling or Sampling(),
        logprobs=logprobs,
        cache_read_only=not stored,
        deadline=deadline,
        streamed=True,
    )


async def ask(engine: EngineHandle, wanted: GenerationRequest, *, cancel_after: int | None = None) -> Asked:
    """Run one request to its end; `cancel_after` leaves once it has seen so many pieces. Errors are in the result."""
    asked = Asked(began=time.perf_counter())
    seen = 0
    try:
        stream = await engine.submit(wanted)
        async for event in stream:
            match event:
                case Delta():
                    seen += 1
                    asked.text += event.piece.content
                    asked.points.append((time.perf_counter(), event.usage.completion_tokens))
                    if cancel_after is not None and seen >= cancel_after:
                        stream.cancel()
                case Finished():
                    asked.text += event.piece.content
                    asked.points.append((time.perf_counter(), event.usage.completion_tokens))
                    asked.end = event
                case Failed(error=error):
                    asked.error = error
    except WorkerError as error:
        asked.error = error
    return asked


async def ask_all(engine: EngineHandle, wanted: Sequence[GenerationRequest]) -> list[Asked]:
    """All at once.

    Raises:
        WorkerError: That of the first that failed.
    """
    answers = list(await asyncio.gather(*(ask(engine, one) for one in wanted)))
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return answers


async def ask_each(engine: EngineHandle, wanted: Sequence[GenerationRequest]) -> list[Asked]:
    """One after another.

    Raises:
        WorkerError: That of the first that failed.
    """
    return [(await ask_all(engine, [one]))[0] for one in wanted]


def tokens_a_second(answers: Sequence[Asked]) -> float:
    """Of all streams together, while all of them decoded.

    Raises:
        NotMeasured: There was no such time to speak of.
    """
    began = max(answer.points[0][0] for answer in answers)
    ended = min(answer.points[-1][0] for answer in answers)
    count = sum(_known_at(answer, ended) - _known_at(answer, began) for answer in answers)
    if ended <= began or count < _LEAST_WINDOW * len(answers):
        raise NotMeasured("the answers ended too soon to measure a rate")
    return count / (ended - began)


def _known_at(answer: Asked, moment: float) -> float:
    """Tokens known at a moment, between two pieces in proportion."""
    before = (answer.points[0][0], float(answer.points[0][1]))
    for when, count in answer.points:
        if when >= moment:
            share = (moment - before[0]) / (when - before[0]) if when > before[0] else 1.0
            return before[1] + share * (count - before[1])
        before = (when, float(count))
    return before[1]
