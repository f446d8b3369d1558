"""Counts of each token in the last part of a row's history, kept up to date token by token."""

from collections import deque

import numpy as np
from numpy.typing import NDArray


class PenaltyWindow:
    """Distinct tokens and their counts among the last `size` tokens of prompt and answer; None is all of them.

    Engine thread only. Invariant: `_slot[t]` is where `t` stands in `_ids[:n]`, and its count is 1 or more.
    A token costs constant time, whatever the window.
    """

    def __init__(self, prompt: NDArray[np.int32], size: int | None) -> None:
        self._size = size
        kept = prompt if size is None else prompt[max(0, len(prompt) - size) :]
        # Only a bounded window has to know what leaves it.
        self._order: deque[int] | None = None if size is None else deque(kept.tolist())
        ids, counts = np.unique(kept, return_counts=True)
        self._length = len(ids)
        self._ids = ids.astype(np.int64)
        self._counts = counts.astype(np.int64)
        self._slot = {token: slot for slot, token in enumerate(ids.tolist())}

    def add(self, token: int) -> None:
        """Append a token to the history; the oldest leaves a full window."""
        if self._size == 0:
            return
        if self._order is not None:
            if len(self._order) == self._size:
                self._remove(self._order.popleft())
            self._order.append(token)
        slot = self._slot.get(token)
        if slot is None:
            self._append(token)
        else:
            self._counts[slot] += 1

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct ids and their counts, both `[n]`, in no order. Views: valid until the next `add`."""
        return self._ids[: self._length], self._counts[: self._length]

    def counts_before(self, coming: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What `counts` would be of the tokens now known once `coming` more, not known yet, have been added."""
        ids, counts = self.counts()
        if self._order is None or self._size is None:
            return ids, counts
        leaving = min(len(self._order), len(self._order) + coming - self._size)
        if leaving <= 0:
            return ids, counts
        counts = counts.copy()
        for index in range(leaving):
            counts[self._slot[self._order[index]]] -= 1
        left = counts > 0
        return ids[left], counts[left]

    def _append(self, token: int) -> None:
        if self._length == len(self._ids):
            room = np.zeros(max(16, self._length), np.int64)
            self._ids = np.concatenate([self._ids, room])
            self._counts = np.concatenate([self._counts, room])
        self._slot[token] = self._length
        self._ids[self._length] = token
        self._counts[self._length] = 1
        self._length += 1

    def _remove(self, token: int) -> None:
        slot = self._slot[token]
        self._counts[slot] -= 1
        if self._counts[slot]:
            return
        del self._slot[token]
        self._length -= 1
        if slot != self._length:
            last = int(self._ids[self._length])
            self._ids[slot], self._counts[slot] = last, self._counts[self._length]
            self._slot[last] = slot
