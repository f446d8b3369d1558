"""Stop strings on decoded text, exact wherever the tokens were cut."""


class StopScanner:
    """Finds the first stop string of one answer. Engine thread only.

    The match that ends first wins; of matches that end together, the one that starts first. Text is held
    only while it is a prefix of a stop string. Each stop string has a Knuth-Morris-Pratt cursor whose
    failure table is filled no further than the text has matched, so that long stop strings cost nothing
    until they are nearly met.

    Attributes:
        stopped: A stop string was completed; later text is dropped.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stopped = False
        self._cursors: dict[str, list[_Cursor]] = {}
        for stop in dict.fromkeys(stops):
            self._cursors.setdefault(stop[0], []).append(_Cursor(stop))
        self._firsts = frozenset(self._cursors)
        self._active: list[_Cursor] = []
        self._held = ""

    def push(self, text: str) -> str:
        """Take new text; return what can no longer be part of a stop string."""
        if not self._active and self._firsts.isdisjoint(text):
            return text if not self.stopped else ""
        if self.stopped:
            return ""
        text = self._held + text
        for i in range(len(self._held), len(text)):
            matched = self._step(text[i])
            if matched:
                self.stopped = True
                self._held, self._active = "", []
                return text[: i + 1 - matched]
        cut = len(text) - max((cursor.state for cursor in self._active), default=0)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """The held text, which the end of the answer has shown to be no stop string."""
        held, self._held, self._active = self._held, "", []
        return held

    def _step(self, char: str) -> int:
        """Move every cursor over one character; the length of the longest stop string that ends here, or 0."""
        starting = [cursor for cursor in self._cursors.get(char, ()) if not cursor.state]
        active: list[_Cursor] = []
        matched = 0
        for cursor in (*self._active, *starting):
            state = cursor.advance(char)
            if state == len(cursor.stop):
                matched = max(matched, state)
            if state:
                active.append(cursor)
        self._active = active
        return matched


class _Cursor:
    """How much of one stop string the text's end matches."""

    __slots__ = ("_fail", "state", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.state = 0
        # _fail[k]: length of the longest proper border of stop[:k+1].
        self._fail = [0]

    def advance(self, char: str) -> int:
        stop, state = self.stop, self.state
        while state and char != stop[state]:
            state = self._border(state)
        self.state = state + 1 if char == stop[state] else 0
        return self.state

    def _border(self, length: int) -> int:
        """Longest proper border of `stop[:length]`, from a table filled as far as it is asked for."""
        stop, fail = self.stop, self._fail
        while len(fail) < length:
            border = fail[-1]
            char = stop[len(fail)]
            while border and stop[border] != char:
                border = fail[border - 1]
            fail.append(border + 1 if stop[border] == char else 0)
        return fail[length - 1]
