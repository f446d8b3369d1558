"""Muse Spark: messages with headers, and calls as `<atem:invoke name="..."><atem:parameter name="...">`.

One answer holds several messages; the prompt ends in the first one's `<|start|>assistant `:

    to=self<|message|>reasoning<|eom|>
    <|start|>assistant to=NAME<|message|><atem:function_calls>...</atem:function_calls><|eom|>
    <|start|>assistant to=user<|message|>answer<|eot|>
"""

import re

from backend.output.calls.call_format import Call, CallFormat, CallReader, Read
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import BlockReader, HeaderReader, balanced
from backend.output.calls.schema import ToolSchemas, typed

_NAME = re.compile(r"[^<>]*?\bname=\"([^\"<>]+)\"[^<>]*>")
_PARAMETER = re.compile(r"\s*<atem:parameter\b")
_RECIPIENT = re.compile(r"(?:to=(?P<to>[\w.-]*))?\s*")


def parse(item: str, tools: ToolSchemas) -> Call:
    """One call, from after `<atem:invoke` to before `</atem:invoke>`.

    Raises:
        NotACall: There is something else than a name and parameters.
    """
    name, at = _name(item, 0)
    arguments: dict[str, object] = {}
    while parameter := _PARAMETER.match(item, at):
        key, at = _name(item, parameter.end())
        end = item.index("</atem:parameter>", at)
        arguments[key] = typed(item[at:end].strip(), tools.types(name, key), guess=True)
        at = end + len("</atem:parameter>")
    if skip_blank(item, at) != len(item):
        raise NotACall("something between the parameters")
    return Call.of(name, arguments)


def _name(text: str, at: int) -> tuple[str, int]:
    match = _NAME.match(text, at)
    if match is None:
        raise NotACall("no name")
    return match[1], match.end()


def route(header: str) -> Read | None:
    """Where the message behind a header goes: to itself is reasoning, to anyone else is content."""
    rest = header.removeprefix("assistant").removeprefix(" ")
    match = _RECIPIENT.fullmatch(rest)
    if match is None:
        return Read(0) if "assistant".startswith(header) or "to=".startswith(rest) else None
    return Read(0, section="reasoning" if match["to"] == "self" else "content")


class MuseSpark(CallFormat):
    """Values are JSON, or else text."""

    name = "muse_spark"
    markers = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>", "<atem:function_calls>", "</atem:function_calls>")
    think = ("to=self<|message|>", "<|eom|>")
    ignored = ("<|eom|>", "<|eot|>")

    def __init__(self, *, calls: bool = True) -> None:
        self.starts = ("<|start|>", self.call_start) if calls else ("<|start|>",)

    @property
    def call_start(self) -> str:
        return "<atem:function_calls>"

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        if start == "<|start|>":
            return HeaderReader("<|message|>", route)
        return BlockReader(
            ("<atem:invoke", "</atem:invoke>"),
            "</atem:function_calls>",
            lambda item: parse(item, tools),
            closes=balanced("<atem:parameter", "</atem:parameter>"),
        )

    def first_reader(self, tools: ToolSchemas) -> CallReader:
        return HeaderReader("<|message|>", route)

    def without_calls(self) -> CallFormat:
        return MuseSpark(calls=False)


FORMAT = MuseSpark()
