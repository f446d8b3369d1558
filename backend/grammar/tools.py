"""Tool choice as a grammar: calls in the model's own form, with arguments that fit the tool's schema."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.core.call_shape import Either, Fixed, ForcedCall, FreeText, JsonValue, Members, Shape, TextLimits
from backend.core.errors import InvalidRequest
from backend.core.request import Grammar, ToolChoice
from backend.grammar.dialects import json_rule, slashed

# `str.strip` removes the last four control characters too, besides Unicode's white space.
_EDGES = {"line breaks": r"[^\n]", "blanks": r"[^\s\x1c-\x1f]"}


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """What a tool choice asks of the answer.

    Attributes:
        grammar: One call; after the trigger, if there is one.
        trigger: Empty if the answer must be a call; else the text around calls is free, and the grammar holds
            after this text (see `Activation.trigger`).
    """

    grammar: Grammar
    trigger: str = ""


def tool_grammar(
    calls: Sequence[ForcedCall],
    choice: ToolChoice,
    *,
    trigger: str = "",
    strict: bool = False,
    special: Mapping[str, int] | None = None,
) -> ToolGrammar | None:
    """The grammar that a tool choice asks for, or None if it asks for nothing.

    Args:
        calls: How each tool's call is written.
        trigger: The text that opens a call: the beginning of all of them. Only for optional calls.
        strict: A tool asks for arguments that surely fit its schema, so optional calls are held to it too.
        special: Control tokens by text; markers among them are matched as those tokens.

    Raises:
        InvalidRequest: The function chosen is not among the tools, or there are none; or a schema is none.
    """
    if choice.mode == "none" or (choice.mode == "auto" and not strict):
        return None
    if choice.mode == "function":
        calls = [call for call in calls if call.function == choice.function]
        if not calls:
            raise InvalidRequest("ToolChoice", f"function {choice.function!r} is not among the tools")
    if not calls:
        raise InvalidRequest("ToolChoice", f"{choice.mode} needs tools")
    if choice.mode != "auto":
        return ToolGrammar(_Lark(special or {}).grammar(calls))
    shapes = [_without(call.shape, trigger) for call in calls]
    if not trigger or None in shapes:
        return None
    bare = [ForcedCall(call.function, shape) for call, shape in zip(calls, shapes, strict=True) if shape is not None]
    return ToolGrammar(_Lark(special or {}).grammar(bare), trigger)


def is_strict(tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of the OpenAI tool objects has `strict: true`."""
    return any(isinstance(t.get("function"), Mapping) and t["function"].get("strict") is True for t in tools)


def _without(shape: Shape, trigger: str) -> Shape | None:
    """The shape behind its trigger; None if it does not begin so."""
    first = shape[0] if shape else None
    if not isinstance(first, Fixed) or not first.text.startswith(trigger):
        return None
    return Fixed(first.text[len(trigger) :]), *shape[1:]


class _Lark:
    """Writes shapes as rules of llguidance's Lark."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._lines: list[str] = []

    def grammar(self, calls: Sequence[ForcedCall]) -> Grammar:
        """One of the calls."""
        options = [
            f"({' '.join(literal(call.lead, self._special))})? {self._sequence(call.shape)}"
            if call.lead
            else self._sequence(call.shape)
            for call in calls
        ]
        start = "start: " + " | ".join(self._rule("call", option) for option in options)
        return Grammar(kind="lark", text="\n".join([start, *self._lines]))

    def _rule(self, kind: str, definition: str) -> str:
        """A new rule's name; those in capitals are terminals."""
        name = f"{kind}{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        return name

    def _sequence(self, shape: Shape) -> str:
        return " ".join(part for each in shape for part in self._parts(each)) or '""'

    def _parts(self, part: Fixed | JsonValue | FreeText | Either | Members) -> list[str]:
        match part:
            case Fixed():
                return literal(part.text, self._special)
            case JsonValue():
                return [self._rule("json", json_rule(dict(part.schema), "Tools"))]
            case FreeText():
                return self._free_text(part)
            case Either():
                return [self._rule("either", " | ".join(self._sequence(option) for option in part.options))]
            case Members():
                return self._members(part)

    def _free_text(self, free: FreeText) -> list[str]:
        """One terminal with its end, as far as that is text: the lexer is greedy, and would run over the end."""
        fixed, *rest = [*literal(free.tail + free.end, self._special), ""]
        if fixed.startswith("<"):
            fixed, rest = "", [fixed, *rest]
        definition = f"({' & '.join(_conditions(free))}) {fixed}".strip()
        if fixed or not _may_be_empty(free):
            return [self._rule("TEXT", definition), *filter(None, rest)]
        # A terminal matches something; where nothing of the end is in it, it may be absent.
        return [f"({self._rule('TEXT', f'{definition} & /(?s:.+)/')})?", *filter(None, rest)]

    def _members(self, members: Members) -> list[str]:
        """Rules from the last argument to the first: what may come after others, and what may come first."""
        separator = literal(members.separator, self._special)
        after = first = ""
        for member in reversed(members.items):
            item = self._rule("member", self._sequence(member.shape))
            begun = " ".join([item, after]).strip()
            optional = "" if member.required else "?"
            first_option = begun if member.required or not first else f"{begun} | {first}"
            wholly = not member.required and not first
            first = self._rule("first", f"({first_option})?" if wholly else first_option)
            after = self._rule("after", " ".join([f"({' '.join([*separator, item])}){optional}", after]).strip())
        return [first] if first else []


def _may_be_empty(free: FreeText) -> bool:
    return any(_matches_nothing(limits) for limits in free.limits)


def _matches_nothing(limits: TextLimits) -> bool:
    try:
        return not limits.least and re.fullmatch(limits.pattern, "") is not None
    except re.error:  # written in Rust's syntax only
        return False


def _conditions(free: FreeText) -> list[str]:
    """Regular expressions that all hold for a free text."""
    options = [_limited(limits) for limits in free.limits]
    found = [options[0] if len(options) == 1 else f"({' | '.join(f'({option})' for option in options)})"]
    found.append(f"~/(?s:.*){slashed(re.escape(free.end))}(?s:.*)/")
    if free.bare_of:
        edge = _EDGES[free.bare_of]
        found.append(f"/({edge}((?s:.*){edge})?)?/")
    if free.unlike_json:
        found.append(r"~/\s*[\[{(](?s:.*)/")
    return found


def _limited(limits: TextLimits) -> str:
    most = "" if limits.most is None else limits.most
    bounded = limits.least or limits.most is not None
    found = [f"/(?s:.{{{limits.least},{most}}})/" if bounded else "/(?s:.*)/"]
    if limits.pattern:
        found.append(f"/{slashed(limits.pattern)}/")
    if limits.unlike:
        found.append(f"~/{slashed(limits.unlike)}/")
    return " & ".join(found)


def literal(text: str, special: Mapping[str, int]) -> list[str]:
    """Lark parts that match a text, control tokens in it as those tokens."""
    found = [(text.index(name), -len(name), name) for name in special if name and name in text]
    if not found:
        return [json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")] if text else []
    at, _, name = min(found)
    rest = literal(text[at + len(name) :], special)
    return [*literal(text[:at], {}), f"<[{special[name]}]>", *rest]
