"""The shape of a tool call's text: what its format fixes, and what the tool's schema leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


class NotForceable(ValueError):
    """No grammar can hold a call to what is asked; the message says why, in a few words."""


class NotWritable(NotForceable):
    """Nothing that can be written is read as what is asked; what need not be there is left out."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonValue:
    """JSON that fits a schema."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """What a text must be like.

    Attributes:
        least, most: Characters.
        pattern: A regular expression that the text as a whole matches; empty for any.
        unlike: One that it does not match; empty for none.
    """

    least: int = 0
    most: int | None = None
    pattern: str = ""
    unlike: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeText:
    """Text that does not contain `end`, then `tail` and `end`.

    Attributes:
        limits: One of these holds for the text without `tail` and `end`.
        bare_of: What may not stand at its edges: line breaks, any white space, or nothing of that kind.
        unlike_json: It may not begin as an object or an array does.
    """

    end: str
    tail: str = ""
    limits: tuple[TextLimits, ...] = (TextLimits(),)
    bare_of: Literal["", "line breaks", "blanks"] = ""
    unlike_json: bool = False


@dataclass(frozen=True, slots=True)
class Either:
    """One of several shapes."""

    options: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One argument."""

    shape: "Shape"
    required: bool


@dataclass(frozen=True, slots=True)
class Members:
    """Arguments in this order, those that are not required may be missing; `separator` between two."""

    items: tuple[Member, ...]
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Repeated:
    """This shape any number of times, `separator` between two."""

    shape: "Shape"
    separator: str = ""


Part = Fixed | JsonValue | FreeText | Either | Members | Repeated
Shape = tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSection:
    """A section of an answer that holds calls. A call's shape says what is the call's own.

    Attributes:
        trigger: Text within `begin`, or where the call begins, that opens it in an answer which is free until there;
            empty if nothing does.
        begin, end: Before its first call, and behind its last.
        between: Between two calls; None where it holds one.
        again: Between two sections; None where an answer has one.
    """

    trigger: str = ""
    begin: str = ""
    end: str = ""
    between: str | None = None
    again: str | None = None


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """A call of one function, without what its section has around it.

    Attributes:
        lead: What may stand before its section where the answer must be a call.
    """

    function: str
    shape: Shape
    lead: str = ""
