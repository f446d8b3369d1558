"""gpt-oss: harmony messages. The channel and the recipient in a message's header say what it is.

<|channel|>analysis<|message|>reasoning<|end|>
<|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
<|start|>assistant<|channel|>final<|message|>answer<|return|>
"""

import re

from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.json_calls import HeaderCallReader
from backend.output.calls.readers import HeaderReader
from backend.output.calls.schema import ToolSchemas

_HEADER = re.compile(r"[\w\s=.:/-]*(?:<\|(?:channel|constrain)\|>[\w\s=.:/-]*)*(?:<[|a-z]*)?")
_RECIPIENT = re.compile(r"\bto=([\w.:/-]+)")
_ENDS = ("<|call|>", "<|end|>", "<|return|>", "<|start|>")


def route(header: str) -> Read | str | None:
    """Where the message behind a header goes, or the function it calls, or None if it is no header."""
    if _HEADER.fullmatch(header) is None:
        return None
    recipient = _RECIPIENT.search(header)
    if recipient and recipient[1] not in ("user", "assistant"):
        return recipient[1].removeprefix("functions.")
    return Read(0, section="reasoning" if "analysis" in header else "content")


def route_text(header: str) -> Read | None:
    """As `route`, with calls as content."""
    routed = route(header)
    return Read(0, section="content") if isinstance(routed, str) else routed


def arguments_of(name: str, at: int) -> CallReader:
    """A reader of the message that calls a function. The next message's start ends one too."""
    return HeaderCallReader(lambda _, begin: (name, "", begin), _ENDS, kept=("<|start|>",), at=at)


class Harmony(CallFormat):
    """Commentary to nobody is content: it is the preamble that users see before a call."""

    name = "harmony"
    writable = re.compile(r"[\w.:/-]{1,200}")
    starts = ("<|start|>", "<|channel|>")
    markers = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
    think = ("<|channel|>analysis<|message|>", "<|end|>")
    ignored = ("<|end|>", "<|return|>", "<|call|>")
    lead = "<|start|>assistant"

    def __init__(self, *, calls: bool = True) -> None:
        self._calls = calls

    @property
    def call_start(self) -> str:
        return "<|channel|>commentary to="

    @property
    def call_end(self) -> str:
        return "<|call|>"

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        if not self._calls:
            return HeaderReader("<|message|>", route_text)
        return HeaderReader("<|message|>", route, call=arguments_of)

    def without_calls(self) -> CallFormat:
        return Harmony(calls=False)

    def frame(self, name: str) -> tuple[str, str] | None:
        if not self._calls:
            return None
        return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>", "<|call|>"


FORMAT = Harmony()
