"""Tool choice as a grammar: calls in the model's own form, with arguments that fit the tool's schema."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.core.call_shape import (
    CallSection,
    Either,
    Fixed,
    ForcedCall,
    FreeText,
    JsonValue,
    Members,
    Part,
    Repeated,
    Shape,
    TextLimits,
)
from backend.core.errors import InvalidRequest
from backend.core.request import Grammar, ToolChoice
from backend.grammar.dialects import json_rule, slashed
from backend.grammar.emptiness import matches_nothing

# `str.strip` removes the last four control characters too, besides Unicode's white space.
_EDGES = {"line breaks": r"[^\n]", "blanks": r"[^\s\x1c-\x1f]"}
_ONE = CallSection()


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """What a tool choice asks of the answer.

    Attributes:
        grammar: Calls; after a trigger, if there are any.
        triggers: Empty if the answer must be a call; else the text around calls is free, and the grammar holds
            after each of these texts (see `Activation.triggers`).
        functions: Of each line of the grammar, the function whose call it is part of; empty for none.
    """

    grammar: Grammar
    triggers: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


def tool_grammar(
    calls: Sequence[ForcedCall],
    choice: ToolChoice,
    *,
    sections: Sequence[CallSection] = (_ONE,),
    strict: bool = False,
    several: bool = True,
    special: Mapping[str, int] | None = None,
) -> ToolGrammar | None:
    """The grammar that a tool choice asks for, or None if it asks for nothing.

    Required calls are one or more, as far as the format can write several; a named one is one.

    Args:
        calls: How each tool's call is written.
        sections: How calls stand in an answer. Of required ones the first counts, of optional ones all with a trigger.
        strict: A tool asks for arguments that surely fit its schema, so optional calls are held to it too.
        several: More than one call may come.
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
    lark = _Lark(special or {}, several=several and choice.mode != "function")
    if choice.mode != "auto":
        return lark.required(calls, sections[0])
    return lark.optional(calls, [section for section in sections if section.trigger])


def strict_functions(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The functions of those OpenAI tool objects that have `strict: true`."""
    functions = (tool.get("function") for tool in tools)
    return frozenset(
        str(each["name"]) for each in functions if isinstance(each, Mapping) and each.get("strict") is True
    )


def _split(shape: Shape) -> tuple[str, Shape]:
    """The text that a shape begins with, and what follows it."""
    first = shape[0] if shape else None
    return (first.text, shape[1:]) if isinstance(first, Fixed) else ("", shape)


class _Lark:
    """Writes calls as rules of llguidance's Lark."""

    def __init__(self, special: Mapping[str, int], *, several: bool) -> None:
        self._special, self._several = special, several
        self._lines: list[str] = []
        self._functions: list[str] = []
        self._function = ""
        self._tails: dict[str, str] = {}

    def required(self, calls: Sequence[ForcedCall], section: CallSection) -> ToolGrammar:
        """Calls and nothing else, perhaps in several sections."""
        call = self._any_of(calls)
        whole = " ".join([*self._literal(section.begin), *self._calls(call, call, section)])
        if self._several and section.again is not None:
            more = " ".join([*self._literal(section.again), whole])
            whole = f"{whole} ({more})*"
        # Formats say the same of all their calls.
        lead = self._literal(calls[0].lead)
        return self._grammar([f"({' '.join(lead)})? {whole}" if lead else whole])

    def optional(self, calls: Sequence[ForcedCall], sections: Sequence[CallSection]) -> ToolGrammar | None:
        """A section behind the trigger of each; None where there is none. Where there are several, the number of the
        trigger comes first."""
        call = self._any_of(calls)
        wholes: list[str] = []
        for number, section in enumerate(sections):
            whole = [json.dumps(f"{number}")] if len(sections) > 1 else []
            _, within, rest = section.begin.partition(section.trigger)
            first = call if within else self._any_of(calls, behind=section.trigger)
            wholes.append(" ".join([*whole, *self._literal(rest), *self._calls(first, call, section)]))
        return self._grammar(wholes, tuple(section.trigger for section in sections)) if sections else None

    def _calls(self, first: str, further: str, section: CallSection) -> list[str]:
        """The calls of a section, and its end."""
        between, end = section.between, section.end
        if between is None or not self._several:
            return [first, *self._literal(end)]
        # What both begin with is written once: the lexer is greedy, and could not go back from one to the other.
        common = _common(between, end)
        both = self._literal(common)
        more = " ".join([*self._literal(between.removeprefix(common)), further, *both])
        return [first, *both, f"({more})*", *self._literal(end.removeprefix(common))]

    def _any_of(self, calls: Sequence[ForcedCall], behind: str = "") -> str:
        """A rule for one of the calls, or for what follows a text in it."""
        names: list[str] = []
        for call in calls:
            self._function = call.function
            begin, rest = _split(call.shape)
            if self._function not in self._tails:
                self._tails[self._function] = self._tail(rest)
            own = self._literal(begin.partition(behind)[2] if behind else begin)
            names.append(self._rule("call", " ".join([*own, self._tails[self._function]])))
        self._function = ""
        return self._rule("any", " | ".join(names))

    def _tail(self, shape: Shape) -> str:
        """A rule for all of a call but its first text."""
        try:
            return self._rule("tail", self._sequence(shape))
        except InvalidRequest as error:
            reason = error.message.removeprefix(f"{error.field}: ")
            raise InvalidRequest(error.field, f"function {self._function!r}: {reason}") from error

    def _grammar(self, wholes: Sequence[str], triggers: tuple[str, ...] = ()) -> ToolGrammar:
        text = "\n".join(["start: " + " | ".join(wholes), *self._lines])
        return ToolGrammar(Grammar(kind="lark", text=text), triggers, ("", *self._functions))

    def _literal(self, text: str) -> list[str]:
        return literal(text, self._special)

    def _rule(self, kind: str, definition: str) -> str:
        """A new rule's name; those in capitals are terminals."""
        name = f"{kind}{len(self._lines)}"
        self._lines.append(f"{name}: {definition}")
        self._functions.append(self._function)
        return name

    def _sequence(self, shape: Shape) -> str:
        return " ".join(part for each in shape for part in self._parts(each)) or '""'

    def _parts(self, part: Part) -> list[str]:
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
            case Repeated():
                item = self._rule("item", self._sequence(part.shape))
                more = " ".join([*self._literal(part.separator), item])
                return [f"({item} ({more})*)?"]

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


def _common(one: str, other: str) -> str:
    """What two texts begin with alike."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(char for char, _ in alike)


def _may_be_empty(free: FreeText) -> bool:
    return any(not limits.least and matches_nothing(limits.pattern) for limits in free.limits)


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
