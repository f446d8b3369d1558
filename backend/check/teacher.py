"""mlx-lm as the judge of answers: the same tokens in one pass through its model, and what two answers may differ by."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from backend.check.asking import Asked
from backend.core.events import TokenLogprob
from backend.engine.batching.session import Session

# Draws that part, over what roundings are expected to explain: more is no chance.
_UNLIKELY = 3.0


@dataclass(frozen=True, slots=True)
class Bound:
    """What roundings may do to a logprob: nats at most, and whether a few steps may be off by more.

    In a mixture of experts a rounding may decide a tie between two of them, so there half of an answer's steps must be
    within it.
    """

    nats: float
    experts: bool

    def holds(self, apart: Sequence[float]) -> bool:
        """Whether an answer whose steps are so far apart is right."""
        if not apart:
            return True
        return (median(apart) if self.experts else max(apart)) <= self.nats


@dataclass(frozen=True, slots=True)
class Taught:
    """One answer against the model itself.

    Attributes:
        apart: For each token, how far its logprob and those of its alternatives are from the model's, in nats.
        behind: For each token, how far its logit is below the best.
        ranges: For each token, from the least to the largest logit.
    """

    apart: tuple[float, ...]
    behind: tuple[float, ...]
    ranges: tuple[float, ...]


def teach(session: Session, prompt: NDArray[np.int32], answer: Sequence[TokenLogprob]) -> Taught:
    """Run prompt and answer through the model at once. Engine thread only."""
    if not answer:
        return Taught((), (), ())
    served = np.array([entry.id for entry in answer], np.int32)
    fed = mx.array(np.concatenate([prompt, served[:-1]]))[None]
    logits = session.loaded.model(fed, cache=session.loaded.new_cache())[0, len(prompt) - 1 :].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    finite = mx.isfinite(logits)
    low = mx.min(mx.where(finite, logits, mx.inf), axis=-1)
    best = mx.max(logprobs, axis=-1)
    ours = mx.take_along_axis(logprobs, mx.array(served)[:, None], axis=-1)[:, 0]
    width = min(len(entry.top) for entry in answer)
    ids = np.array([[top.id for top in entry.top[:width]] for entry in answer], np.int32).reshape(len(answer), width)
    others = mx.take_along_axis(logprobs, mx.array(ids), axis=-1) if width else mx.zeros((len(answer), 0))
    mx.eval(ours, others, best, low, logits)
    told = np.array([[entry.logprob, *(top.logprob for top in entry.top[:width])] for entry in answer])
    known = np.concatenate([np.asarray(ours)[:, None], np.asarray(others)], axis=-1)
    # A NaN is as wrong as can be.
    apart = np.nan_to_num(np.abs(told - known).max(axis=-1), nan=np.inf)
    ranges = np.asarray(mx.max(logits, axis=-1) - low)
    return Taught(tuple(apart.tolist()), tuple((np.asarray(best) - np.asarray(ours)).tolist()), tuple(ranges.tolist()))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the answers of a set compare with others to the same requests.

    Attributes:
        equal, within, beyond: Answers whose tokens are the same; part where that is fair; are wrong.
        worst: The largest difference of a logprob, in nats.
        parted: Of those within, the ones that were drawn by noise.
        chance: How many of those roundings of this size may have made part.
    """

    equal: int = 0
    within: int = 0
    beyond: int = 0
    worst: float = 0.0
    parted: int = 0
    chance: float = 0.0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.equal + other.equal,
            self.within + other.within,
            self.beyond + other.beyond,
            max(self.worst, other.worst),
            self.parted + other.parted,
            self.chance + other.chance,
        )

    @property
    def right(self) -> bool:
        """No answer is wrong, and no more draws part than roundings explain."""
        return not self.beyond and self.parted <= 1 + _UNLIKELY * self.chance

    def told(self, bound: Bound) -> str:
        """In words."""
        text = f"{self.equal} equal, {self.within} with tokens that differ within the bound, {self.beyond} beyond it"
        if self.parted:
            text += f" ({self.parted} draws parted, roundings explain {self.chance:.1g})"
        return f"{text}; worst {self.worst:.2g} of {bound.nats:.2g} nats"


def agreement(ours: Asked, theirs: Asked, bound: Bound, *, greedy: bool) -> Agreement:
    """Compare two answers to one request. Where tokens part, what comes after has no measure.

    A draw by noise may part wherever probabilities differ by a rounding, about as often as they differ; the likeliest
    token only where another is as likely but for one.
    """
    apart: list[float] = []
    parted = False
    for mine, other in zip(ours.logprobs, theirs.logprobs, strict=False):
        apart.append(_apart(mine, other))
        parted = mine.id != other.id
        if parted:
            break
    worst, right = max(apart, default=0.0), bound.holds(apart)
    chance = 0.0 if greedy else min(1.0, 2 * sum(apart))
    if not parted:
        whole = right and len(ours.logprobs) == len(theirs.logprobs)
        return Agreement(equal=int(whole), beyond=int(not whole), worst=worst, chance=chance)
    fair = right and (not greedy or _tied(ours.logprobs[len(apart) - 1], theirs.logprobs[len(apart) - 1], bound))
    return Agreement(
        within=int(fair), beyond=int(not fair), worst=worst, parted=int(fair and not greedy), chance=chance
    )


def _apart(mine: TokenLogprob, other: TokenLogprob) -> float:
    theirs = _known(other)
    shared = [abs(value - theirs[token]) for token, value in _known(mine).items() if token in theirs]
    return max(shared, default=float("inf"))


def _known(entry: TokenLogprob) -> dict[int, float]:
    return {entry.id: entry.logprob} | {top.id: top.logprob for top in entry.top}


def _tied(mine: TokenLogprob, other: TokenLogprob, bound: Bound) -> bool:
    known = _known(other)
    return mine.id in known and abs(other.logprob - known[mine.id]) <= bound.nats
