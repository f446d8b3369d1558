"""One request's place in its answer, as far as sampling is concerned."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.core.request import Sampling
from backend.engine.sampling.noise import Key, Purpose, key_of, uniform
from backend.engine.sampling.penalties import PenaltyWindow
from backend.engine.sampling.sampled import CODE_FAILED


class RowSampling:
    """A row's settings, its history under the penalties, and its position in the random sequence.

    Engine thread only; one a request. Invariant: `step` is the number of tokens accepted, `drawn_ahead` holds the
    tokens drawn ahead on the device and not accepted yet, oldest first. `error` says why no token can be drawn any
    more; `fault` is what our own code raised, the constraint's or that of a draw, if that is why.

    Args:
        sampling: Already made safe for the vocabulary (`Sampling.within`).
        prompt: The whole prompt's token ids, `[n]`, whatever of it was cached.
        eos_ids: The model's end-of-sequence tokens.
        top_logprobs: None for no logprobs; n for the chosen token's and the n most likely ones'.
        constraint: The answer's grammar, fresh; this object advances it.
        xtc_exempt: Tokens that XTC never excludes besides the end-of-sequence ones (mlx-lm: the newline's).
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt: NDArray[np.int32],
        eos_ids: frozenset[int],
        top_logprobs: int | None,
        constraint: Constraint | None = None,
        xtc_exempt: frozenset[int] = frozenset(),
    ) -> None:
        self.sampling = sampling
        self.top_logprobs = top_logprobs
        self.constraint = constraint
        self.eos_ids = np.array(sorted(eos_ids), np.int64)
        self.xtc_exempt = np.array(sorted(eos_ids | xtc_exempt), np.int64)
        self.bias_ids, self.bias_values = _summed(sampling.logit_bias)
        self.step = 0
        # Each is (tokens of one lazy draw [rows], this row's place in it); only `device` knows the array type. Where a
        # draft is taken for drawn, (its tokens, a place in it).
        self.drawn_ahead: deque[tuple[Any, int]] = deque()
        self.error: str | None = None
        self.fault: Exception | None = None
        penalised = sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty
        self.window = PenaltyWindow(prompt, sampling.penalty_window) if penalised else None

    @property
    def needs_last_token(self) -> bool:
        """The next draw has to wait until the last token was accepted: a grammar cannot look ahead."""
        return self.constraint is not None

    def accept(self, token: int) -> None:
        """Enter a sampled token into the history, advance the random position and the constraint. Never raises."""
        self.step += 1
        if self.drawn_ahead:
            self.drawn_ahead.popleft()
        if self.window is not None:
            self.window.add(token)
        if self.constraint is not None:
            try:
                self.constraint.advance(token)
            except Exception as error:  # noqa: BLE001 - a fault in one row's grammar must not end the batch
                self.broke(error, CODE_FAILED)

    def allowed(self) -> NDArray[np.uint32] | None:
        """The constraint's bit mask for the next token, None for no restriction; sets `error` where it failed."""
        if self.constraint is None or self.error is not None:
            return None
        try:
            mask = self.constraint.mask()
            self.error = self.constraint.error
        except Exception as error:  # noqa: BLE001 - as in `accept`
            self.broke(error, CODE_FAILED)
            return None
        return mask

    def broke(self, fault: Exception, reason: str) -> None:
        """Code of ours raised: nothing that the request or its grammar says, so the fault's words are for the log."""
        self.fault = fault
        self.error = reason

    def forbids_eos(self) -> bool:
        """Whether end-of-sequence is masked now. A finished grammar allows nothing else, so there it is not."""
        return self.sampling.ignore_eos and not (self.constraint is not None and self.constraint.finished)

    def key(self, purpose: Purpose) -> Key:
        """The random key of the next token to be drawn."""
        return key_of(self.sampling.seed, self.step + len(self.drawn_ahead), purpose)

    def excludes_top_choices(self) -> bool:
        """Whether XTC acts on the next token to be drawn."""
        if self.sampling.xtc_probability <= 0.0:
            return False
        drawn = uniform(self.sampling.seed, self.step + len(self.drawn_ahead), Purpose.XTC)
        return drawn <= self.sampling.xtc_probability


def _summed(
    pairs: tuple[tuple[int, float], ...],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Distinct ids and the sum of each one's addends, both `[n]`."""
    sums: dict[int, float] = {}
    for token, addend in pairs:
        sums[token] = sums.get(token, 0.0) + addend
    return np.array(list(sums), np.int64), np.array(list(sums.values()), np.float32)


def within(ids: NDArray[np.int64], vocab: int) -> NDArray[np.int64]:
    """Those of the ids that the logits have a place for."""
    return ids[ids < vocab] if len(ids) and ids.max() >= vocab else ids
