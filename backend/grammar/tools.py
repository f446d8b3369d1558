"""Tool choice as a grammar: calls in the model's own form, with arguments that fit the tool's schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backend.core.errors import InvalidRequest
from backend.core.request import Grammar, ToolChoice
from backend.grammar.dialects import json_rule


class CallForm(Protocol):
    """How a model writes the call of one function: `begin`, JSON that fits `schema`, `end`."""

    @property
    def function(self) -> str: ...
    @property
    def begin(self) -> str: ...
    @property
    def schema(self) -> Mapping[str, Any]: ...
    @property
    def end(self) -> str: ...


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
    forms: Sequence[CallForm],
    choice: ToolChoice,
    *,
    trigger: str = "",
    strict: bool = False,
    special: Mapping[str, int] | None = None,
) -> ToolGrammar | None:
    """The grammar that a tool choice asks for, or None if it asks for nothing.

    Args:
        forms: How each tool's call is written.
        trigger: The text that opens a call: the beginning of every form's `begin`. Only for optional calls.
        strict: A tool asks for arguments that surely fit its schema, so optional calls are held to it too.
        special: Control tokens by text; markers among them are matched as those tokens.

    Raises:
        InvalidRequest: The function chosen is not among the tools, or the form of calls cannot be constrained.
    """
    if choice.mode == "none" or (choice.mode == "auto" and not strict):
        return None
    if choice.mode == "function":
        forms = [form for form in forms if form.function == choice.function]
        if not forms:
            raise InvalidRequest("ToolChoice", f"function {choice.function!r} is not among the tools")
    if not forms:
        raise InvalidRequest("ToolChoice", f"{choice.mode} needs tools, in a form of calls that can be constrained")
    if choice.mode != "auto":
        return ToolGrammar(_calls(forms, 0, special or {}))
    if not trigger or not all(form.begin.startswith(trigger) for form in forms):
        return None
    return ToolGrammar(_calls(forms, len(trigger), special or {}), trigger)


def is_strict(tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of the OpenAI tool objects has `strict: true`."""
    return any(isinstance(t.get("function"), Mapping) and t["function"].get("strict") is True for t in tools)


def _calls(forms: Sequence[CallForm], skip: int, special: Mapping[str, int]) -> Grammar:
    lines = ["start: " + " | ".join(f"call{i}" for i in range(len(forms)))]
    for i, form in enumerate(forms):
        parts = [*literal(form.begin[skip:], special), f"arguments{i}", *literal(form.end, special)]
        lines.append(f"call{i}: {' '.join(parts)}")
        lines.append(f"arguments{i}: {json_rule(dict(form.schema))}")
    return Grammar(kind="lark", text="\n".join(lines))


def literal(text: str, special: Mapping[str, int]) -> list[str]:
    """Lark parts that match a text, control tokens in it as those tokens."""
    found = [(text.index(name), -len(name), name) for name in special if name and name in text]
    if not found:
        return [json.dumps(text, ensure_ascii=False)] if text else []
    at, _, name = min(found)
    rest = literal(text[at + len(name) :], special)
    return [*literal(text[:at], {}), f"<[{special[name]}]>", *rest]
