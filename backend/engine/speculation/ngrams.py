"""Where in a growing sequence of tokens its last few have stood before."""

import numpy as np
from numpy.typing import NDArray

ORDERS = (3, 2)
# Each over 2 ** 30, so that their products with a token spread over 62 bits and never overflow.
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_FOLD = 21
# Of two that come to have one place in a table the later keeps it: there are two to four places for each token that
# there is room for, and half as many for pairs, of which there are fewer.
_MORE_PLACES = (2, 1)
_LEAST_TOKENS = 256
LONGEST = 32
"""A match is not looked at beyond this many tokens."""


class Ngrams:
    """Tokens, and for each order a table from the hash of so many tokens to the position after their latest occurrence.

    Positions are those of tokens, `[0, len)`. 32 to 56 bytes a token, with room for as many again. Building
    takes about 2 ms for 32,000 tokens, a token added or looked up about a microsecond. The tokens of a place are
    compared when it is looked up: a collision may cost a find and never gives a wrong one.

    Args:
        tokens: What is there to begin with, shape `[n]`; copied.

    Attributes:
        tokens: With room to grow behind the last.
        hashes: Of the last tokens, for each order; 0 where there are fewer.
    """

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        self._build(tokens)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, position: int) -> int:
        return self.tokens[position]

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return self._array.nbytes + sum(table.nbytes for table in self._arrays)

    def take(self, start: int, end: int) -> list[int]:
        """The tokens `[start, end)`, as far as there are any."""
        return self.tokens[start : min(end, self._n)].tolist()

    def extend(self, tokens: list[int]) -> None:
        """Go on by many tokens, at a fraction of what `append` takes for each."""
        n = self._n
        if n + len(tokens) > len(self._array):
            self._build(np.concatenate([self._array[:n], np.array(tokens, np.int32)]))
            return
        self._array[n : n + len(tokens)] = tokens
        self._n = n + len(tokens)
        self._enter(n)
        self.hashes = self._last_hashes()

    def append(self, token: int) -> None:
        """Go on by a token."""
        n = self._n
        if n == len(self._array):
            self.extend([token])
            return
        for order, table, mask, place in zip(ORDERS, self._tables, self._masks, self.hashes, strict=True):
            if n >= order:
                table[place & mask] = n
        self.tokens[n] = token
        self._n = n + 1
        self.hashes = self._last_hashes()

    def find(self, which: int, other: "Ngrams") -> tuple[int, int] | None:
        """Where the last `ORDERS[which]` tokens of `other`, which may be this one, have stood here lately.

        Returns:
            The position after them, and how many tokens before it are the same as `other`'s last, `LONGEST` at most.
        """
        order, end = ORDERS[which], len(other)
        if end < order:
            return None
        at = self._tables[which][other.hashes[which] & self._masks[which]]
        mine, theirs = self.tokens, other.tokens
        matched, most = 0, min(LONGEST, at, end)
        while matched < most and mine[at - 1 - matched] == theirs[end - 1 - matched]:
            matched += 1
        return (at, matched) if matched >= order else None

    def _build(self, tokens: NDArray[np.int32]) -> None:
        """Make room for as many again, and enter all of them anew."""
        room = max(_LEAST_TOKENS, 2 * len(tokens))
        self._array = np.zeros(room, np.int32)
        self._array[: len(tokens)] = tokens
        places = 1 << (room - 1).bit_length()
        self._arrays = [np.zeros(places * more, np.int32) for more in _MORE_PLACES]
        self._masks = [places * more - 1 for more in _MORE_PLACES]
        # Reading one element of a memoryview takes a third of what reading it of an array does.
        self.tokens = self._array.data
        self._tables = [table.data for table in self._arrays]
        self._n = len(tokens)
        self._enter(0)
        self.hashes = self._last_hashes()

    def _enter(self, start: int) -> None:
        """Enter what comes before each position from `start` on but the end: what is last of all is looked up."""
        for order, table, mask in zip(ORDERS, self._arrays, self._masks, strict=True):
            first = max(start, order)
            n = self._n - first
            if n <= 0:
                continue
            tokens = self._array[first - order : self._n].astype(np.int64)
            hashes = tokens[:n] * _FACTORS[0]
            for i in range(1, order):
                hashes ^= tokens[i : i + n] * _FACTORS[i]
            # Where an index comes twice, the later one stays.
            table[(hashes ^ hashes >> _FOLD) & mask] = np.arange(first, self._n, dtype=np.int32)

    def _last_hashes(self) -> tuple[int, int]:
        """Of the last three tokens and of the last two; 0 where there are fewer."""
        n, tokens = self._n, self.tokens
        if n < ORDERS[1]:
            return (0, 0)
        first, second, third = _FACTORS
        b, c = tokens[n - 2], tokens[n - 1]
        two = b * first ^ c * second
        three = tokens[n - 3] * first ^ b * second ^ c * third if n >= ORDERS[0] else 0
        return (three ^ three >> _FOLD, two ^ two >> _FOLD)
