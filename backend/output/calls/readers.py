"""Readers that several tool-call formats share."""

from collections.abc import Callable
from dataclasses import replace

from backend.output.calls.call_format import PARSE_ERRORS, Call, Read
from backend.output.calls.json_extent import JsonExtent
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.markers import MarkerSet

Parse = Callable[[str], tuple[Call, ...]]


def begins(text: str, literals: tuple[str, ...], at: int = 0) -> bool:
    """Whether `text[at:]` begins with one of the literals, as far as it goes."""
    rest = text[at : at + max(map(len, literals))]
    return any(rest.startswith(literal) or literal.startswith(rest) for literal in literals)


def balanced(opening: str, closing: str) -> Callable[[str], bool]:
    """A test that every `opening` in a text has its `closing`: an end marker inside a value is no end."""
    return lambda body: body.count(opening) <= body.count(closing)


class DelimitedReader:
    """One body between the start marker and an end marker.

    Args:
        opens: Whether a body may begin so; asked while the body is short, so that a marker that is only
            spoken of is given back at once.
        closes: Whether the end marker after such a body is the end.
    """

    _SHORT = 512

    def __init__(
        self,
        end: str,
        parse: Parse,
        *,
        opens: Callable[[str], bool],
        closes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._end, self._parse, self._opens, self._closes = end, parse, opens, closes
        self._at = 0
        self._opened = False

    def read(self, body: str, *, final: bool) -> Read | None:
        at = body.find(self._end, self._at)
        if not self._opened and not self._opens(body[: self._SHORT]):
            raise NotACall("not the beginning of a call")
        self._opened = len(body) >= self._SHORT
        while at >= 0:
            if self._closes(body[:at]):
                return Read(at + len(self._end), self._parse(body[:at]))
            at = body.find(self._end, at + 1)
        if final:
            raise NotACall("cut off")
        self._at = max(0, len(body) - len(self._end) + 1)
        return None


class JsonReader:
    """One JSON value, then an end marker; the marker may be missing before `restarts`, and be cut off at the end of
    the answer."""

    def __init__(self, end: str, parse: Parse, restarts: tuple[str, ...] = ()) -> None:
        self._end, self._parse, self._restarts = end, parse, restarts
        self._extent = JsonExtent()
        self._value_end: int | None = None

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._value_end is None:
            self._value_end = self._extent.find_end(body)
        if self._value_end is None:
            if final:
                raise NotACall("cut off")
            return None
        after = skip_blank(body, self._value_end)
        if body.startswith(self._end, after):
            return Read(after + len(self._end), self._parse(body[: self._value_end]))
        if any(body.startswith(restart, after) for restart in self._restarts):
            return Read(self._value_end, self._parse(body[: self._value_end]))
        if not begins(body, (self._end, *self._restarts), after):
            raise NotACall("no end marker")
        return Read(len(body), self._parse(body[: self._value_end])) if final else None


class BlockReader:
    """Several calls, each between an item's own markers, up to the section's end marker.

    A call that does not parse is given back; the calls after it are still read.
    """

    def __init__(
        self,
        item: tuple[str, str],
        end: str,
        parse: Callable[[str], Call],
        *,
        closes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._start, self._stop = item
        self._end, self._parse, self._closes = end, parse, closes
        self._at = 0
        self._calls = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        begin = skip_blank(body, 0)
        if body.startswith(self._end, begin):
            return self._close(body, begin + len(self._end))
        if body.startswith(self._start, begin):
            return self._read_item(body, begin, final=final)
        if final and self._calls and begin == len(body):
            return Read(begin)
        if final or not begins(body, (self._start, self._end), begin):
            raise NotACall("neither a call nor the end")
        return None

    def _close(self, body: str, end: int) -> Read:
        if not self._calls:
            raise NotACall("no call in the section")
        return Read(end)

    def _read_item(self, body: str, begin: int, *, final: bool) -> Read | None:
        inner = begin + len(self._start)
        at = body.find(self._stop, max(inner, self._at))
        while at >= 0 and not self._closes(body[inner:at]):
            at = body.find(self._stop, at + 1)
        if at < 0:
            if final:
                raise NotACall("cut off")
            self._at = max(0, len(body) - len(self._stop) + 1)
            return None
        self._at = 0
        end = at + len(self._stop)
        try:
            call = self._parse(body[inner:at])
        except PARSE_ERRORS:
            if not self._calls:
                raise
            return Read(end, text=body[:end], open=True)
        self._calls += 1
        return Read(end, (call,), open=True)


class HeaderReader:
    """The header of a message, and its body if that is a call.

    Args:
        header_end: Text between header and body.
        route: What a header means: a `Read` with the section of the body, the name of the function that the
            body calls, or None if it is no header. Asked of unfinished headers too: what it takes as a whole it
            must take at every length.
        ends: Texts of which one ends a body that is a call.
    """

    _LONGEST = 512

    def __init__(
        self,
        header_end: str,
        route: Callable[[str], Read | str | None],
        *,
        ends: tuple[str, ...] = (),
        parse: Callable[[str, str], Call] | None = None,
    ) -> None:
        self._header_end, self._route = MarkerSet([header_end]), route
        self._ends, self._parse = MarkerSet(ends), parse
        self._at = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        at, marker = self._header_end.find(body[: self._LONGEST], final=False)
        routed = self._route(body[:at])
        if routed is None or (not marker and len(body) >= self._LONGEST):
            raise NotACall("no header")
        if not marker:
            # Cut off inside a header: it is markup, and nothing of the answer is lost with it.
            return Read(len(body)) if final else None
        begin = at + len(marker)
        if isinstance(routed, Read):
            return replace(routed, end=begin)
        return self._read_call(routed, body, begin, final=final)

    def _read_call(self, name: str, body: str, begin: int, *, final: bool) -> Read | None:
        start = max(begin, self._at)
        at, marker = self._ends.find(body[start:], final=final)
        self._at = start + at
        if not marker and not final:
            return None
        if self._parse is None or (not marker and self._at == begin):
            raise NotACall("no body")
        return Read(
            self._at + (0 if marker == "<|start|>" else len(marker)), (self._parse(name, body[begin : self._at]),)
        )
