"""Readers of calls that are JSON objects: a name and arguments among their members, alone or in lists."""

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from backend.output.calls.call_format import BrokenCall, Call, CallPart, Read, function_name
from backend.output.calls.json_calls import ArgumentParts, wait
from backend.output.calls.json_extent import JsonExtent
from backend.output.calls.json_text import NotACall, is_utf8, load_json
from backend.output.calls.literals import skip_blank

_KEY = re.compile(r'\s*(?:,\s*)?("(?:[^"\\]|\\.)*")\s*:\s*(?=\S)', re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class CallKeys:
    """What a call object's members are called.

    Attributes:
        id: Of the model's own id for the call; empty where it means nothing beyond the answer.
        known: The functions there are, where nothing but the object marks a call; None takes any.
    """

    name: str = "name"
    id: str = "id"
    known: Container[str] | None = None


OPENAI_KEYS = CallKeys()


class CallObjectReader:
    """`{"name": ..., "arguments": {...}}`, several of them or a list, then an end marker. Engine thread only.

    The marker may be missing. Arguments are given in parts if the name comes before them; an `id` counts there too.
    `parameters` is read as `arguments`.

    Args:
        end: The end marker; empty if nothing but the JSON ends the section.
        repeated: More objects may follow, a `;` between them; so they may before an end marker.
    """

    def __init__(self, end: str, keys: CallKeys = OPENAI_KEYS, *, repeated: bool = False) -> None:
        self._end, self._keys = end, keys
        self._repeated = repeated or bool(end)
        self._object: CallObject | None = None
        self._calls = 0
        self._listed = self._was_listed = False

    def read(self, body: str, *, final: bool) -> Read | None:
        if self._object is None and self._calls:
            at = self._next(body)
            if at is None or isinstance(at, Read):
                return at or (Read(len(body)) if final else None)
            return self._begin(body, at, final=final)
        if self._object is None:
            at = skip_blank(body, 0)
            self._listed = self._was_listed = body.startswith("[", at)
            return self._begin(body, skip_blank(body, at + 1) if self._listed else at, final=final)
        return self._go_on(self._object, body, final=final)

    def _next(self, body: str) -> Read | int | None:
        """After a call: where the next one begins, or the end."""
        at = skip_blank(body, 0)
        if self._listed and body.startswith(",", at):
            return skip_blank(body, at + 1)
        if self._listed and body.startswith("]", at):
            self._listed = False
            return Read(at + 1, open=True)
        if self._listed and at < len(body):
            raise NotACall("no comma between calls")
        if self._end and body.startswith(self._end, at):
            return Read(at + len(self._end))
        if self._listed or (self._end and self._end.startswith(body[at:])):
            return None
        return self._another(body, at)

    def _another(self, body: str, at: int) -> Read | int | None:
        """Where an object follows that is no member of a list."""
        if not self._repeated or self._was_listed:
            return Read(0)
        begin = skip_blank(body, at + 1) if body.startswith(";", at) else at
        if begin == len(body):
            return None
        return begin if body[begin] == "{" else Read(0)

    def _begin(self, body: str, at: int, *, final: bool) -> Read | None:
        if at == len(body):
            return Read(at) if final and self._calls else wait(final=final)
        if not body.startswith("{", at):
            raise NotACall("no call object")
        self._object = CallObject(at, self._keys)
        return self._go_on(self._object, body, final=final)

    def _go_on(self, read: "CallObject", body: str, *, final: bool) -> Read | None:
        if part := read.read(body):
            return Read(0, part=part, open=True)
        if read.broken:
            raise read.refusal
        if read.end is None:
            return wait(final=final)
        self._object = None
        self._calls += 1
        done = read.finish()
        return (
            Read(read.end, open=True, part=done) if isinstance(done, CallPart) else Read(read.end, (done,), open=True)
        )


class CallObject:
    """One call object in text that grows."""

    def __init__(self, at: int, keys: CallKeys) -> None:
        self._keys = keys
        self._extent = JsonExtent(at)
        self._at = at + 1
        self._members: dict[str, Any] = {}
        self._key = ""
        self._value: JsonExtent | None = None
        self._arguments: ArgumentParts | None = None
        self.broken = False
        self.end: int | None = None

    @property
    def refusal(self) -> NotACall:
        """What to raise if it is broken."""
        return BrokenCall(self._extent.at) if self._has_begun else NotACall("no JSON")

    def read(self, body: str) -> CallPart | None:
        """The next part of its arguments. Reads all of `body` before it is broken or has an end.

        Raises:
            NotACall: A member shows that it is no call.
        """
        try:
            return self._read_members(body)
        except NotACall as error:
            raise BrokenCall(self._at) if self._has_begun else error from error

    @property
    def _has_begun(self) -> bool:
        return self._arguments is not None and self._arguments.begun

    def _read_members(self, body: str) -> CallPart | None:
        try:
            end = self._extent.find_end(body)
        except ValueError:
            self.broken, end = True, None
        self._extent.take()
        while self._read_key(body) and self._value is not None:
            if self._arguments is not None and self._arguments.extent is self._value:
                part = self._arguments.read(body)
                if part or self._arguments.end is None:
                    return part
                self._at, self._value = self._arguments.end, None
            elif not self._read_value(self._value, body):
                break
        self.end = end
        return None

    def _read_key(self, body: str) -> bool:
        if self._value is not None:
            return True
        match = _KEY.match(body, self._at, self._extent.at)
        if match is None:
            return False
        self._key, self._at = load_json(match[1]), match.end()
        if self._keys.known is not None and not self._members and self._key not in (self._keys.name, "type"):
            raise NotACall("an object that is no call")
        name = self._members.get(self._keys.name)
        if self._key in _ARGUMENTS and body[self._at] == "{" and isinstance(name, str) and self._arguments is None:
            call_id = self._members.get(self._keys.id)
            own = call_id if isinstance(call_id, str) and is_utf8(call_id) else ""
            self._arguments = ArgumentParts(function_name(name), self._at, own)
            self._value = self._arguments.extent
        else:
            self._value = JsonExtent(self._at, scalars=True)
        return True

    def _read_value(self, value: JsonExtent, body: str) -> bool:
        try:
            end = value.find_end(body)
        except ValueError:
            end = None  # as the object is then
        if end is None:
            return False
        self._members[self._key] = load_json(value.take())
        self._check(self._key, self._members[self._key])
        self._at, self._value = end, None
        return True

    def _check(self, key: str, value: Any) -> None:
        """Rule out an object that nothing marks as a call, as soon as it cannot be one."""
        known = self._keys.known
        if known is None:
            return
        unknown = key == self._keys.name and not (isinstance(value, str) and value in known)
        if unknown or (key == "type" and value != "function"):
            raise NotACall("no such function")

    def finish(self) -> CallPart | Call:
        """The last part of the call, or all of it if none has been read.

        Raises:
            NotACall: It has no name, or no arguments.
        """
        if self._arguments is not None:
            return self._arguments.last
        members = self._members
        if self._keys.known is not None and members.keys().isdisjoint(_ARGUMENTS):
            raise NotACall("an object that is no call")
        arguments = members.get("arguments", members.get("parameters"))
        return Call.of(members.get(self._keys.name), arguments, members.get(self._keys.id, ""))
