"""One request on the engine thread, from acceptance to its end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.events import TokenLogprob, Usage
from backend.core.request import GenerationRequest
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.reused import Reused
from backend.engine.batching.standing import Standing
from backend.engine.channel import AnswerStream
from backend.engine.disk_threads import Job
from backend.engine.inbox import Submit
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import RowLogprobs
from backend.engine.speculation.row_drafts import RowDrafts
from backend.engine.work import Embed, Tails


@dataclass(slots=True, eq=False)
class Row:
    """Engine thread only.

    Invariant: its KV, here in `caches` or in the batch, is that of `tokens()[:covered]`; that of `proven` is while a
    chunk runs.

    Attributes:
        feed: What must be in the KV before the row can decode, shape `[n]`: the prompt, and after a
            preemption the answer so far; all but its last token is prefilled. Where nothing is to be generated, one
            token more than the prompt.
        generated: Sampled tokens, end-of-sequence included.
        last_token: The token that the next decode step feeds.
        chunk_ends: Positions of `feed`, ascending, at which prefill chunks end; the last is `len(feed) - 1`.
        snapshot_ends: Those at which a state that cannot be cut by token is stored.
        chunk: What of the prompt runs now; `covered` is where it begins.
        epoch: The prompt cache's when the row was admitted; what it leaves is of use in no other.
        finished: Its answer is complete.
        waited: Tokens that others' prompts ran since this one's last chunk.
        reading: What a disk is asked for; the row waits for it, until `reading_until` at most.
        leader: The row whose prefill this one waits for, to take the shared prefix from the cache.
        covered: Tokens whose KV exists.
        preemptions: Times that it went back to the queue; of those, `displaced` for a higher priority.
        first_token_at, last_token_at: When tokens of the answer became known; 0 while there is none.
        restored: Those of them that the prompt cache had.
        looked_up: The prompt cache has been asked for its prompt: to ask again, once it is back from the queue, is no
            further lookup. One that had to go while it waited for a leader or a disk has not.
        drafts: What the row guesses of its own answer, where it does.
        drafted, accepted: Tokens that were guessed and looked at, and those of them that were drawn; None of the first
            where nothing guesses, or nobody is to know.
    """

    submit: Submit
    sampling: RowSampling
    feed: NDArray[np.int32]
    standing: Standing
    caches: list[Any] | None = None
    covered: int = 0
    restored: int = 0
    looked_up: bool = False
    cached_tokens: int = 0
    reported_covered: int = 0
    cache_reason: str = ""
    generated: list[int] = field(default_factory=list[int])
    completion_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    last_token: int = 0
    chunk_ends: tuple[int, ...] = ()
    snapshot_ends: tuple[int, ...] = ()
    chunk: Chunk | None = None
    epoch: int = 0
    finished: bool = False
    waited: float = 0.0
    reading: Job[Reused] | None = None
    reading_until: float = 0.0
    leader: "Row | None" = None
    admitted_at: float = 0.0
    decoding_at: float = 0.0
    reported_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    preemptions: int = 0
    displaced: int = 0
    drafts: RowDrafts | None = None
    drafted: int | None = None
    accepted: int = 0

    @property
    def stream(self) -> AnswerStream:
        """Where the row's events go."""
        return self.submit.stream

    @property
    def request(self) -> GenerationRequest:
        """What was asked."""
        return self.submit.request

    @property
    def prefilled(self) -> bool:
        """Only the last token of `feed` is left, which the first decode step feeds."""
        return self.caches is not None and self.covered == len(self.feed) - 1

    @property
    def proven(self) -> list[Any] | None:
        """Caches of exactly `tokens()[:covered]`, where the row has them."""
        return self.caches if self.chunk is None else self.chunk.before()

    @property
    def stores(self) -> bool:
        """Whether the request leaves anything in the prompt cache."""
        return not self.request.cache_read_only

    def tokens(self) -> NDArray[np.int32]:
        """Prompt and answer so far, shape `[n + generated]`."""
        prompt = self.submit.prompt.tokens
        if not self.generated:
            return prompt
        return np.concatenate([prompt, np.asarray(self.generated, dtype=np.int32)])

    def to_feed(self) -> NDArray[np.int32]:
        """What has to be in the KV, and the token after it, which is whichever where nothing is to be generated."""
        tokens = self.tokens()
        return np.append(tokens, np.int32(0)) if self.request.prefill_only else tokens

    @property
    def expects(self) -> int:
        """Tokens that it is to have in caches of its own before it decodes, if it does."""
        work = self.submit.work
        if isinstance(work, Embed):
            return work.reach
        return len(self.feed) + (work.longest if isinstance(work, Tails) else 0)

    def usage(self, now: float) -> Usage:
        """Running totals at monotonic time `now`."""
        admitted = self.admitted_at or now
        decoding = self.decoding_at or now
        work = self.submit.work
        return Usage(
            prompt_tokens=len(self.submit.prompt.tokens) if work is None else work.total,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
            queue_ms=(admitted - self.submit.accepted_at) * 1e3,
            prefill_ms=(decoding - admitted) * 1e3,
            decode_ms=(now - decoding) * 1e3,
            first_token_ms=(self.first_token_at - self.submit.accepted_at) * 1e3 if self.first_token_at else 0.0,
        )


def token_logprob(token: int, logprobs: RowLogprobs, bytes_of: Callable[[int], bytes]) -> TokenLogprob:
    """One sampled token's entry with its alternatives."""
    top = (
        TokenLogprob(id=other, token=bytes_of(other), logprob=value)
        for other, value in zip(logprobs.top_ids, logprobs.top, strict=True)
    )
    return TokenLogprob(id=token, token=bytes_of(token), logprob=logprobs.chosen, top=tuple(top))
