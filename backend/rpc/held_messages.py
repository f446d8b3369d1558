"""What the messages of all calls take together, so that many calls cannot fill the memory where one cannot."""

from typing import Final

from backend.core.errors import Overloaded
from backend.rpc.off_loop import INLINE_BYTES

# Parsed and made into texts, a message takes some three times its bytes.
MOST_BYTES: Final = 512 << 20


class HeldMessages:
    """Event loop only. Invariant: `bytes` is the sum of the sizes of the messages of calls that have not ended."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0

    def begin(self) -> "HeldMessage":
        """The message of a call that begins, which has not been read."""
        return HeldMessage(self)


class HeldMessage:
    """One call's message until it is parsed, and its size until the call ends."""

    def __init__(self, others: HeldMessages) -> None:
        self._all = others
        self._data = b""
        self.size: int | None = None

    def put(self, data: bytes) -> None:
        """Keep what has been read.

        Raises:
            Overloaded: With those of others it is too much. A small one is always taken: Health is one.
        """
        together = self._all.bytes + len(data)
        if len(data) > INLINE_BYTES and together > self._all.most_bytes:
            most = self._all.most_bytes
            raise Overloaded(f"the messages of running calls would have {together} bytes with this one, limit {most}")
        self._data, self.size = data, len(data)
        self._all.bytes = together

    def take(self) -> bytes:
        """The message, which is no longer kept here."""
        data, self._data = self._data, b""
        return data

    def end(self) -> None:
        """The call is over; once."""
        self._all.bytes -= self.size or 0
