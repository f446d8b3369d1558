"""gpt-oss: harmony messages. The channel and the recipient in a message's header say what it is.

<|channel|>analysis<|message|>reasoning<|end|>
<|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
<|start|>assistant<|channel|>final<|message|>answer<|return|>

The recipient may stand behind the role too, as in the chat template; the first message's then comes before any marker:

 to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>
"""

import re
from functools import partial

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat, CallReader, Read
from backend.output.calls.json_calls import HeaderCallReader
from backend.output.calls.readers import HeaderReader, ToFunction
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tags import begun
from backend.output.sections import Section

_CALL = "<|channel|>commentary to="
_WORD = r"[\w.:/+-]+"
# A role or a channel, a recipient, a type: more words are text that speaks of a marker. What is unfinished matches too.
_WORDS = rf"(?:{_WORD}(?:=(?:{_WORD})?)?(?:\s+{_WORD}(?:=(?:{_WORD})?)?){{0,2}}\s*)?"
_REST = rf"(?:<\|channel\|>{_WORDS}|<\|constrain\|>\s*{_WORDS})*(?:<[|a-z]*)?"
_MARKED = re.compile(rf"(?:<\|start\|>{_WORDS})?{_REST}")
_UNMARKED = re.compile(
    rf"\s*(?:(?:assistant\s*)?(?:to={_WORD}(?:\s+{_WORD})?\s*)?{_REST}"
    rf"|{begun('assistant')}|(?:assistant\s*)?{begun('to=')})"
)
_ROLE = re.compile(r"<\|start\|>([\w.-]+)")
_RECIPIENT = re.compile(rf"to=({_WORD})|\s(functions\.{_WORD})")
_NOBODY = ("", "all", "user", "assistant")
_ENDS = ("<|call|>", "<|end|>", "<|return|>", "<|start|>")


def route(start: str, calls: bool, header: str) -> Read | ToFunction | None:
    """Where the message behind `start` and a header goes, or the function it calls, or None if it is no header.

    Args:
        start: `<|start|>`, `<|channel|>`, or nothing where the prompt has begun the header.
        calls: Whether it may call a function; else its text is of its channel.
    """
    text = start + header
    if (_MARKED if start else _UNMARKED).fullmatch(text) is None:
        return None
    found = _RECIPIENT.search(text)
    recipient = (found[1] or found[2]) if found else ""
    strangers = _is_strangers(text, recipient)
    section: Section = "reasoning" if strangers or "<|channel|>analysis" in text else "content"
    if strangers or recipient in _NOBODY or not calls:
        return Read(0, section=section)
    return ToFunction(recipient.removeprefix("functions."), section)


def _is_strangers(header: str, recipient: str) -> bool:
    """Whether a message is by somebody else than the assistant: a model may make up a function's result."""
    role = _ROLE.match(header)
    if role is None or role[1].startswith("assistant"):
        return False
    return recipient == "assistant" or "." in role[1] or role[1] in ("user", "system", "developer", "tool")


def arguments_of(name: str, at: int) -> CallReader:
    """A reader of the message that calls a function. The next message's start ends one too."""
    return HeaderCallReader(lambda _, begin: (name, "", begin), _ENDS, kept=("<|start|>",), at=at, ends_answer=True)


class Harmony(CallFormat):
    """Commentary to nobody is content: it is the preamble that users see before a call.

    What is in the analysis channel is reasoning, calls that cannot be read too, and so are other roles' messages.
    """

    name = "harmony"
    writable = re.compile(r"[\w.:/-]{1,200}")
    starts = ("<|start|>", "<|channel|>")
    markers = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
    think = ("<|channel|>analysis<|message|>", "<|end|>")
    ignored = ("<|end|>", "<|return|>", "<|call|>")
    lead = "<|start|>assistant"
    sections = (CallSection(trigger=_CALL),)

    def __init__(self, *, calls: bool = True) -> None:
        self._calls = calls

    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        routed = partial(route, start, self._calls)
        return HeaderReader("<|message|>", routed, call=arguments_of, marked=bool(start))

    def first_reader(self, tools: ToolSchemas) -> CallReader:
        return self.reader("", tools)

    def without_calls(self) -> CallFormat:
        return Harmony(calls=False)

    def frame(self, name: str) -> tuple[str, str]:
        return f"{_CALL}functions.{name} <|constrain|>json<|message|>", "<|call|>"


FORMAT = Harmony()
