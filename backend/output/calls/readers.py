"""Readers that several tool-call formats share."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.output.calls.call_format import PARSE_ERRORS, BrokenCall, CallReader, Read
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.markers import MarkerSet
from backend.output.sections import Section


def begins(text: str, literals: tuple[str, ...], at: int = 0) -> bool:
    """Whether `text[at:]` begins with one of the literals, as far as it goes."""
    rest = text[at : at + max(map(len, literals))]
    return any(rest.startswith(literal) or literal.startswith(rest) for literal in literals)


class BlockReader:
    """Several calls, each behind `start`, up to the section's end marker.

    A call that does not parse is given back up to its `stop`; the calls after it are still read.

    Args:
        item: A reader of one call, which begins at a position of the text, behind `start`.
    """

    def __init__(self, start: str, stop: str, end: str, item: Callable[[int], CallReader]) -> None:
        self._start, self._stop, self._end = start, stop, end
        self._new_item = item
        self._item: CallReader | None = None
        self._searched = 0
        self._calls = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        begin = skip_blank(body, 0)
        if self._item is None and body.startswith(self._end, begin):
            if not self._calls:
                raise NotACall("no call in the section")
            return Read(begin + len(self._end))
        if self._item is None and not body.startswith(self._start, begin):
            if not begins(body, (self._start, self._end), begin):
                raise NotACall("neither a call nor the end")
            if final and not self._calls:
                raise NotACall("cut off")
            return Read(len(body)) if final else None
        if self._item is None:
            self._item = self._new_item(begin + len(self._start))
            self._searched = begin
        return self._read_item(self._item, body, final=final)

    def _read_item(self, item: CallReader, body: str, *, final: bool) -> Read | None:
        try:
            read = item.read(body, final=final)
        except PARSE_ERRORS as error:
            if not self._calls:
                raise
            return self._skip_item(body, error, final=final)
        if read is not None and read.end:
            self._item = None
            self._calls += 1
            return replace(read, open=True)
        return read

    def _skip_item(self, body: str, error: Exception, *, final: bool) -> Read | None:
        at = body.find(self._stop, self._searched)
        if at < 0:
            if final:
                raise error
            self._searched = max(self._searched, len(body) - len(self._stop) + 1)
            return None
        self._item = None
        end = at + len(self._stop)
        broken_at = error.at if isinstance(error, BrokenCall) else None
        return Read(end, text=body[:end], broken_at=broken_at, open=True)


@dataclass(frozen=True, slots=True)
class ToFunction:
    """A message that calls a function; `section` is what its text is if it turns out to be no call."""

    name: str
    section: Section


class HeaderReader:
    """The header of a message, and its body if that is a call.

    Args:
        header_end: Text between header and body.
        route: What a header means: a `Read` with the section of the body, the function that the body calls, or
            None if it is no header. Asked of unfinished headers too: what it takes as a whole it must take at
            every length.
        call: A reader of a body that calls a function, from a position on.
        marked: A start marker stands before the header; without one an unfinished header may be text.
    """

    _LONGEST = 512

    def __init__(
        self,
        header_end: str,
        route: Callable[[str], Read | ToFunction | None],
        *,
        call: Callable[[str, int], CallReader] | None = None,
        marked: bool = True,
    ) -> None:
        self._header_end, self._route = MarkerSet([header_end]), route
        self._marked = marked
        self._new_call = call
        self._call: CallReader | None = None
        self._section: Section | None = None

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._call is not None:
            return self._read_call(self._call, body, final=final)
        at, marker = self._header_end.find(body[: self._LONGEST], final=False)
        routed = self._route(body[:at])
        never = len(body) >= self._LONGEST or (final and not self._marked)
        if routed is None or (not marker and never):
            raise NotACall("no header")
        if not marker:
            # Cut off inside a header: it is markup, and nothing of the answer is lost with it.
            return Read(len(body)) if final else None
        begin = at + len(marker)
        if isinstance(routed, Read):
            return replace(routed, end=begin)
        if self._new_call is None:
            raise NotACall("no call is looked for")
        self._call, self._section = self._new_call(routed.name, begin), routed.section
        return self._read_call(self._call, body, final=final)

    def _read_call(self, call: CallReader, body: str, *, final: bool) -> Read | None:
        try:
            return call.read(body, final=final)
        except PARSE_ERRORS as error:
            refusal = error if isinstance(error, NotACall) else NotACall("no call")
            refusal.section = self._section
            raise refusal from error
