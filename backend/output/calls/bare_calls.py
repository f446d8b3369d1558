"""Calls as JSON objects or in Python's notation, whichever comes: behind a marker, or where nothing marks them."""

from collections.abc import Container

from backend.output.calls.argument_lists import ArgumentListReader, CallListReader
from backend.output.calls.call_format import CallReader, Read
from backend.output.calls.call_objects import CallKeys, CallObjectReader
from backend.output.calls.json_calls import wait
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.python_calls import SYNTAX


class BareCallReader:
    """JSON call objects, alone or in a list, or a list of Python calls. Engine thread only.

    Args:
        known: The functions there are: JSON that names another one is text. None where a marker has been read.
        end: What may follow the calls.
    """

    def __init__(self, known: Container[str] | None, end: str = "") -> None:
        self._known, self._end = known, end
        self._chosen: CallReader | None = None

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._chosen is None:
            at = skip_blank(body, 0)
            listed = body.startswith("[", at)
            at = skip_blank(body, at + 1) if listed else at
            if at == len(body):
                return wait(final=final)
            self._chosen = self._choose(body[at], listed=listed)
        return self._chosen.read(body, final=final)

    def _choose(self, char: str, *, listed: bool) -> CallReader:
        if char == "{":
            return CallObjectReader(self._end, CallKeys(known=self._known), repeated=True)
        if not listed:
            raise NotACall("neither an object nor a list")
        return CallListReader(lambda at: ArgumentListReader(SYNTAX, at, self._known), self._end, bracketed=True)
