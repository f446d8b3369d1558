"""What the messages of all calls take together, so that many calls cannot fill the memory where one cannot."""

from typing import Final

from backend.core.errors import Overloaded
from backend.rpc.off_loop import INLINE_BYTES

# Parsed and made into texts, a message takes some three times its bytes, and seven where one character is a rare one.
MOST_BYTES: Final = 512 << 20


class HeldMessages:
    """Event loop only. Invariant: `bytes` is what `put` and `weigh` have counted and `let_go` has not given back."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0

    def begin(self) -> "HeldMessage":
        """The message of a call that begins, which has not been read."""
        return HeldMessage(self)


class HeldMessage:
    """One call's message until it is parsed, and what counts of it until nothing is left that is as large.

    Attributes:
        size: All that has been counted, in bytes; None before the message has come.
    """

    def __init__(self, others: HeldMessages) -> None:
        self._all = others
        self._data = b""
        self._counts = 0
        self.size: int | None = None

    def put(self, data: bytes) -> None:
        """Keep what has been read, and count it; raises what `weigh` does."""
        self.weigh(len(data))
        self._data = data

    def weigh(self, size: int) -> None:
        """Count so many bytes more, which parts of the message will take.

        Raises:
            Overloaded: With those of others it is too much. What is small is always taken: Health is.
        """
        together, most = self._all.bytes + size, self._all.most_bytes
        if size > INLINE_BYTES and together > most:
            raise Overloaded(f"the messages of running calls would have {together} bytes with this one, limit {most}")
        self._all.bytes = together
        self._counts += size
        self.size = (self.size or 0) + size

    def take(self) -> bytes:
        """The message, which is no longer kept here."""
        data, self._data = self._data, b""
        return data

    def let_go(self) -> None:
        """It counts no longer, whether it has been taken or not; harmless when called twice."""
        self._data = b""
        self._all.bytes -= self._counts
        self._counts = 0
