"""A reader of calls whose arguments are JSON behind a header that names the function."""

import re
from collections.abc import Callable

from backend.output.calls.call_format import BrokenCall, Call, CallPart, Read, function_name
from backend.output.calls.json_extent import JsonExtent
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import begins
from backend.output.calls.schema import read_guess
from backend.output.markers import MarkerSet

Header = Callable[[str, int], tuple[str, str, int] | None]


class ArgumentParts:
    """The JSON object of a call's arguments, in parts.

    None is given before the first key and its colon are there: until then a brace may be text. The object's own end is
    left for `last`: with it a client could run the call, so it waits for the call's.

    Attributes:
        begun: A part has been given.
        broken: No JSON goes on so.
        end: Where the object ends, once it does.
    """

    def __init__(self, name: str, begin: int, call_id: str = "") -> None:
        self.name, self.id, self.begin = name, call_id, begin
        self.extent = JsonExtent(begin)
        self.begun = self.broken = False
        self.end: int | None = None

    def read(self, body: str) -> CallPart | None:
        """What is new of them, if anything is. Reads all of `body` before they are broken."""
        if body[self.begin] != "{":
            self.broken = True
            return None
        try:
            self.end = self.extent.find_end(body)
        except ValueError:
            self.broken = True
        text = self.extent.take() if self.extent.certain else ""
        if self.end is not None:
            text = text.removesuffix("}" if self.begun or len(text) > 2 else "{}")
        self.begun = self.begun or bool(text)
        return CallPart(self.name, text, self.id) if text else None

    @property
    def last(self) -> CallPart:
        """The call is complete."""
        return CallPart(self.name, "}" if self.begun else "{}", self.id, last=True)

    @property
    def refusal(self) -> NotACall:
        """What to raise if they are broken."""
        return BrokenCall(self.extent.at) if self.begun else NotACall("no JSON")


class HeaderCallReader:
    """A header, then arguments, then an end marker. Engine thread only.

    Args:
        header: What a text has from a place on: the function, its id and where its arguments begin. None if it may
            become a header; it raises if it cannot.
        at: That place.
        ends: End markers; without any, the arguments' end is the call's. At the end of the answer it may be missing.
        kept: Those of `ends` that are not part of the call.
        ends_answer: One of `ends` is the model's end of the answer, and no text then: a call without arguments ends
            behind its header.
    """

    def __init__(
        self,
        header: Header,
        ends: tuple[str, ...] = (),
        *,
        kept: tuple[str, ...] = (),
        at: int = 0,
        ends_answer: bool = False,
    ) -> None:
        self._at = at
        self._ends_answer = ends_answer
        self._header, self._ends, self._kept = header, ends, kept
        self._markers = MarkerSet(ends)
        self._parts: ArgumentParts | None = None
        self._searched = 0

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._parts is None:
            found = self._header(body, self._at)
            begin = skip_blank(body, found[2]) if found else len(body)
            if found and begin == len(body) and final and self._ends_answer:
                return Read(begin, (Call.of(found[0], None, found[1]),), unless_cut=True)
            if found is None or begin == len(body):
                return wait(final=final)
            if end := self._end_at(body, begin):
                return Read(end, (Call.of(found[0], None, found[1]),))
            if any(marker.startswith(body[begin:]) for marker in self._ends):
                return wait(final=final)
            self._parts = ArgumentParts(function_name(found[0]), begin, found[1])
        return self._read_arguments(self._parts, body, final=final)

    def _end_at(self, body: str, at: int) -> int | None:
        for marker in self._ends:
            if body.startswith(marker, at):
                return at if marker in self._kept else at + len(marker)
        return None

    def _read_arguments(self, parts: ArgumentParts, body: str, *, final: bool) -> Read | None:
        if part := parts.read(body):
            return Read(0, part=part, open=True)
        if parts.broken:
            return self._read_otherwise(parts, body, final=final)
        if parts.end is None:
            return wait(final=final)
        after = skip_blank(body, parts.end)
        end = self._end_at(body, after)
        if end is None and self._ends and begins(body, self._ends, after):
            return Read(len(body), part=parts.last) if final else None
        return Read(parts.end if end is None else end, part=parts.last)

    def _read_otherwise(self, parts: ArgumentParts, body: str, *, final: bool) -> Read | None:
        """Arguments that are no JSON: a Python literal up to the end marker."""
        if parts.begun or not self._ends:
            raise parts.refusal
        start = max(parts.begin, self._searched)
        at, marker = self._markers.find(body[start:], final=final)
        self._searched = start + at
        if not marker:
            return wait(final=final)
        call = Call.of(parts.name, read_guess(body[parts.begin : self._searched].strip()), parts.id)
        return Read(self._end_at(body, self._searched) or 0, (call,))


def begun_header(
    header: re.Pattern[str], begun: re.Pattern[str], body: str, at: int, limit: int = 1024
) -> re.Match[str] | None:
    """The header at `at`, or None if the text may become one.

    Raises:
        NotACall: It cannot, within `limit` characters.
    """
    match = header.match(body, at, at + limit)
    if match is None and not (len(body) - at < limit and begun.fullmatch(body, at)):
        raise NotACall("no header")
    return match


def wait(*, final: bool) -> None:
    """More text is needed.

    Raises:
        NotACall: There is none.
    """
    if final:
        raise NotACall("cut off")
