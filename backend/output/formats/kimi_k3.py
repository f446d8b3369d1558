"""Kimi K3's XTML: `<|open|>tools<|sep|>` around calls whose arguments carry their types.

    <|open|>call tool="get_weather" index="1"<|sep|>
      <|open|>argument key="city" type="string"<|sep|>Tokyo<|close|>argument<|sep|>
    <|close|>call<|sep|>

The arguments may be one block instead: `<|open|>json type="object"<|sep|>{"city": "Tokyo"}<|close|>json<|sep|>`.
"""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall, load_json
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas, typed
from backend.output.choice import XTML_TOKENS

_ATTRIBUTE = re.compile(r"(\w+)=\"([^\"]*)\"")
_HEAD = re.compile(r"((?:\s+\w+=\"[^\"]*\")*)\s*<\|sep\|>")
_BLOCK = re.compile(
    r"\s*<\|open\|>(?P<kind>argument|json)(?P<attributes>(?:\s+\w+=\"[^\"]*\")*)\s*<\|sep\|>"
    r"(?P<value>.*?)<\|close\|>(?P=kind)<\|sep\|>",
    re.DOTALL,
)


def parse(item: str, tools: ToolSchemas) -> Call:
    """One call, from after `<|open|>call` to before `<|close|>call<|sep|>`.

    Raises:
        NotACall: It has no name, an argument has no key, or there is something else between them.
    """
    head = _HEAD.match(item)
    if head is None:
        raise NotACall("no attributes")
    name = _attributes(head[1]).get("tool", "")
    arguments: dict[str, object] = {}
    at = head.end()
    while block := _BLOCK.match(item, at):
        at = block.end()
        if block["kind"] == "json":
            arguments |= load_json(block["value"])
            continue
        attributes = _attributes(block["attributes"])
        key = attributes["key"]
        declared = attributes.get("type")
        types = frozenset([declared]) if declared else tools.types(name, key)
        arguments[key] = typed(block["value"], types, guess=False)
    if skip_blank(item, at) != len(item):
        raise NotACall("something between the arguments")
    return Call.of(name, arguments)


def _attributes(text: str) -> dict[str, str]:
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in _ATTRIBUTE.findall(text)}


class KimiK3(CallFormat):
    """Types stand with the arguments."""

    name = "kimi_k3"
    starts = ("<|open|>tools<|sep|>",)
    markers = (*XTML_TOKENS, "<|open|>tools<|sep|>", "<|close|>tools<|sep|>")

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(
            ("<|open|>call", "<|close|>call<|sep|>"), "<|close|>tools<|sep|>", lambda item: parse(item, tools)
        )

    def frame(self, name: str) -> tuple[str, str]:
        attribute = name.replace("&", "&amp;").replace('"', "&quot;")
        begin = f'<|open|>tools<|sep|><|open|>call tool="{attribute}" index="1"<|sep|><|open|>json type="object"<|sep|>'
        return begin, "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>"


FORMAT = KimiK3()
