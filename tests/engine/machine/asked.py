"""A request of a history: what it should be answered, what it was, and whether that is right."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.core.errors import DeadlineExceeded, InternalFault, RequestAborted, WorkerError
from backend.core.events import Delta, Failed, Finished, FinishReason, Piece
from backend.engine.channel import AnswerStream
from backend.engine.quantized.kv_format import KVFormat
from backend.output.stream import OutputStream
from tests.engine.machine.alone import IM_END, Alone, Token
from tests.engine.machine.wishes import SAMPLINGS, Wish
from tests.rounding import tolerance

# Of the device's arithmetic against the host's, and of a window's.
WITHIN = max(1e-4, tolerance(""))


@dataclass(frozen=True, slots=True)
class Right:
    """An answer as the model alone gives it."""

    tokens: list[Token]
    text: str
    reason: FinishReason


def right(wish: Wish, alone: Alone, output: OutputStream, kv: KVFormat | None) -> Right:
    """What a wish should be answered.

    Args:
        output: Fresh, for an answer of this wish.
        kv: How rows hold keys and values.
    """
    text, tokens = "", list[Token]()
    for token in alone.answer(wish.prompt, SAMPLINGS[wish.draws], wish.shape, wish.n + 1, kv):
        if token.id == IM_END:
            return Right(tokens, text + shown(output.finish()), FinishReason.STOP)
        tokens.append(token)
        text += shown(output.push(token.id))
        if output.stopped:
            return Right(tokens, text + shown(output.finish()), FinishReason.STOP_STRING)
        if len(tokens) == wish.n:
            break
    return Right(tokens, text + shown(output.finish(cut=True)), FinishReason.LENGTH)


def shown(piece: Piece) -> str:
    """All text of a piece."""
    return piece.content + piece.reasoning + "".join(call.name + call.arguments for call in piece.tool_calls)


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request from its submission to its end.

    Attributes:
        aborted: The model was unloaded while it ran.
        known: What its tenant had asked when it came, each with its answer.
        tokens: Of the prompt and the right answer.
        checked: Its end was looked at.
        exact: No part of it may come from codes that stand for other numbers than the model's.
        least: Tokens of its prompt that a name held when it came, and still does.
        load: Which of the history's loads it was asked of.
        came_at, over_at: When it came, and when all that it left was stored.
    """

    name: str
    wish: Wish
    right: Right
    deadline: float | None
    exact: bool = True
    least: int = 0
    load: int = 0
    came_at: float = 0.0
    over_at: float = 0.0
    stream: AnswerStream | None = None
    text: str = ""
    end: Finished | None = None
    error: WorkerError | None = None
    cancelled: bool = False
    aborted: bool = False
    ends: int = 0
    checked: bool = False
    known: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])
    tokens: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = np.append(self.wish.tokens, np.array([token.id for token in self.right.tokens], np.int32))

    @property
    def over(self) -> bool:
        """Nothing more comes."""
        return self.cancelled or self.ends > 0

    async def read(self) -> None:
        """Take all that comes."""
        assert self.stream is not None
        async for event in self.stream:
            match event:
                case Delta(piece=piece):
                    self.text += shown(piece)
                case Finished(piece=piece):
                    self.text += shown(piece)
                    self.end, self.ends = event, self.ends + 1
                case Failed(error=error):
                    self.error, self.ends = error, self.ends + 1

    def check(self, now: float, *, lost: bool, may_lose: bool, hit: int) -> None:
        """It ended for a reason that it has, and what was sent is right as far as it goes.

        Args:
            lost: It must not have been answered whole; `may_lose`: it need not have.
            hit: Tokens of its prompt that the prompt cache may have had, at most.
        """
        said = (self.name, self.wish, self.error, self.end and self.end.reason, self.text, self.right)
        match self.error:
            case None if self.end is not None:
                assert not lost, said
                self._check_whole(self.end, hit, said)
            case None:
                assert self.cancelled, said
            case InternalFault():
                assert lost or may_lose, said
                assert "planted" not in self.error.message, said
            case DeadlineExceeded():
                assert self.deadline is not None and self.deadline <= now, said
            case RequestAborted():
                assert self.aborted, said
            case _:
                raise AssertionError(said)

    def _check_whole(self, end: Finished, hit: int, said: object) -> None:
        right = self.right
        assert self.least <= end.usage.cached_tokens <= hit, (end.usage, self.least, hit, said)
        if not self.exact and end.usage.cached_tokens:
            return
        assert (self.text, end.reason) == (right.text, right.reason), said
        assert end.usage.completion_tokens == len(right.tokens), said
        if self.wish.logprobs is not None:
            assert [token.id for token in end.logprobs] == [token.id for token in right.tokens], said
            for ours, theirs in zip(end.logprobs, right.tokens, strict=True):
                assert abs(ours.logprob - theirs.logprob) <= WITHIN, (ours, theirs, said)
