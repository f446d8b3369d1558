"""How calls ended, by method and status code."""

from collections import Counter
from typing import Final

import grpc

# Of a call that was refused before anybody looked what it called.
NO_METHOD: Final = "none"


class CallCounts:
    """The event loop counts, any thread may copy. Since the start of the process; methods are our own alone."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()

    def ended(self, method: str, code: grpc.StatusCode) -> None:
        """Count a call's end."""
        self._ended[method, code.name] += 1

    def unauthenticated(self) -> None:
        """Count a call without the right token."""
        self.ended(NO_METHOD, grpc.StatusCode.UNAUTHENTICATED)

    def copy(self) -> Counter[tuple[str, str]]:
        """Calls by method and code's name."""
        return self._ended.copy()
