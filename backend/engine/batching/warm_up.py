"""Every kind of step once at the load, on the session's own code, so that no kernel is compiled in a first request.

Metal compiles a kernel when it is first used, CUDA loads or compiles it then: the first prompt of each kind would wait
for that, and all the others with it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from backend.core.errors import InternalFault, ModelLoadFailed, RequestAborted, WorkerError
from backend.core.events import Delta, Event, Failed, Piece
from backend.core.logline import logline
from backend.core.request import GenerationRequest, Sampling
from backend.engine.batching.memory import BLOCK_TOKENS
from backend.engine.batching.session import Session
from backend.engine.channel import AnswerStream, Outbox
from backend.engine.inbox import Submit
from backend.engine.loading.failures import check_cancelled
from backend.engine.loading.progress import ProgressLog
from backend.prompt.preparer import EncodedPrompt

log = logging.getLogger(__name__)

# What is not warm by then is compiled when it is needed. On an H100 the kernels of an 8B model in 4 bits take minutes
# the first time; after that they are on the disk.
MOST_SECONDS = 240.0
# Attention and matrix products have kernels of their own for one token, for a few, and for whole tiles.
TAILS = (1, 6, 31, 64, 200)


class Discarded(Outbox):
    """Where the events of requests that nobody made go. Engine thread only."""

    def __init__(self) -> None:
        super().__init__(lambda _deliver: None)
        self.errors: list[WorkerError] = []

    def post(self, stream: AnswerStream, event: Event) -> None:
        """Keep what failed."""
        if isinstance(event, Failed):
            self.errors.append(event.error)
        if not isinstance(event, Delta):
            stream.ended = True


@dataclass(frozen=True, slots=True)
class Prompted:
    """One made-up request.

    Attributes:
        first: Its first token; two prompts with different ones share nothing.
        length: Tokens of its prompt.
        answer: Tokens of its answer.
    """

    first: int
    length: int
    answer: int


@dataclass(frozen=True, slots=True)
class Round:
    """Requests that come together."""

    name: str
    requests: tuple[Prompted, ...]


def rounds(*, chunk: int, max_rows: int, context: int) -> list[Round]:
    """What is run, in order, as far as the context allows."""
    tails = sorted({tail for tail in (*TAILS, chunk, chunk + TAILS[1]) if tail <= chunk + TAILS[1]})
    made = [Round(f"prefill_{tail}", (Prompted(place, tail + 1, 3),)) for place, tail in enumerate(tails)]
    # The longest again, which is in the cache now, and its beginning.
    again = len(tails) - 1
    made.append(Round("from_cache", (Prompted(again, tails[-1] + 9, 3), Prompted(again, tails[-1] // 2 + 9, 3))))
    # They leave one by one, so every number of rows down to one is stepped, and the last is by itself again.
    made.append(Round("rows", tuple(Prompted(100 + row, 10 + row, 2 + row) for row in range(max_rows))))
    grown = tuple(Prompted(200 + row, BLOCK_TOKENS - 4 - row, 12) for row in range(min(2, max_rows)))
    made.append(Round("growth", grown))
    fitting = (
        Round(one.name, tuple(item for item in one.requests if item.length + item.answer <= context)) for one in made
    )
    return [one for one in fitting if one.requests]


def warm_up(session: Session, errors: Discarded, *, chunk: int, cancelled: Callable[[], bool]) -> None:
    """Run the rounds on a session made for it alone, whose outbox is `errors`, and close it.

    Stops after `MOST_SECONDS`, which is no failure; nor is a request that the budget has no room for.

    Raises:
        ModelLoadFailed: A step fails, or the load is not wanted any more.
    """
    progress = ProgressLog(
        "warm_up", session.loaded.path.name, None, unit="rounds", every_s=session.config.engine.progress_s
    )
    planned = rounds(chunk=chunk, max_rows=session.max_rows, context=session.loaded.context_length)
    ends_at = session.clock() + MOST_SECONDS
    try:
        for done, step in enumerate(planned):
            progress.report(done, len(planned))
            if not _run(session, step, ends_at, cancelled):
                log.warning(logline("warm_up_cut_short", seconds=MOST_SECONDS, at=step.name, done=done))
                return
            failed = next((error for error in errors.errors if isinstance(error, InternalFault)), None)
            if failed is not None:
                raise ModelLoadFailed(f"{session.loaded.path}: warm-up, {step.name}: {failed.message}")
        progress.report(len(planned), len(planned))
        progress.finish()
    finally:
        session.abort(lambda: RequestAborted("the warm-up is over"))
        session.close()


def _run(session: Session, step: Round, ends_at: float, cancelled: Callable[[], bool]) -> bool:
    """Run one round; whether there was time for all of it."""
    for item in step.requests:
        session.submit(_submit(session, item))
    while session.busy:
        check_cancelled(cancelled)
        if session.clock() > ends_at:
            return False
        session.step()
    return True


def _submit(session: Session, item: Prompted) -> Submit:
    vocab = session.loaded.vocab_size
    tokens = ((np.arange(item.length) + 1) * (item.first + 1) % vocab).astype(np.int32)
    sampling = Sampling(temperature=float(item.first % 2), seed=1, ignore_eos=True)
    return Submit(
        request=GenerationRequest(request_id="warm-up", prompt="", max_tokens=item.answer, sampling=sampling),
        prompt=EncodedPrompt(tokens),
        max_tokens=item.answer,
        output=cast(Any, _Unread()),
        bytes_of=lambda _token: b"",
        constraint=None,
        stream=AnswerStream(lambda _stream: None, lambda: None),
        generation=session.generation,
        accepted_at=session.clock(),
    )


class _Unread:
    """Stands for an answer's text, which nobody reads."""

    stopped = False
    called = False
    has_tool_calls = False

    def push(self, _token: int) -> Piece:
        return Piece()

    def finish(self, *, cut: bool = False) -> Piece:
        return Piece()
