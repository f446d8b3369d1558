"""Kimi K3's XTML: `<|open|>tools<|sep|>` around calls whose arguments carry their types.

    <|open|>call tool="get_weather" index="1"<|sep|>
      <|open|>argument key="city" type="string"<|sep|>Tokyo<|close|>argument<|sep|>
    <|close|>call<|sep|>

The arguments may be one block instead: `<|open|>json type="object"<|sep|>{"city": "Tokyo"}<|close|>json<|sep|>`.
"""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import NUMBER, CallFormat
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tag_calls import TagReader
from backend.output.calls.tags import Tags, begun
from backend.output.choice import XTML_TOKENS

_SECTION, _END = "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"
_CALL_END, _JSON_END = "<|close|>call<|sep|>", "<|close|>json<|sep|>"
_REST = r"[^<]*" + begun("<|sep|>")
_OPEN, _SEP = r"<\|open\|>", r"<\|sep\|>"


def unescaped(text: str) -> str:
    """An attribute's value."""
    return text.replace("&quot;", '"').replace("&amp;", "&")


TAGS = Tags(
    head=re.compile(rf'(?=(?:[^<]*?\s)?tool="(?P<name>[^"<]+)")[^<]*{_SEP}'),
    head_begun=re.compile(_REST),
    opening=re.compile(
        rf'{_OPEN}argument(?=[^<]*?\skey="(?P<key>[^"<]*)")(?=(?:[^<]*?\stype="(?P<type>[^"<]*)")?)[^<]*{_SEP}'
    ),
    opening_begun=re.compile(begun("<|open|>", f"(?:{begun('argument', _REST)}|{begun('json', _REST)})")),
    value_end="<|close|>argument<|sep|>",
    json_opening=re.compile(rf"{_OPEN}json(?![\w])[^<]*{_SEP}"),
    json_end=_JSON_END,
    close=(_CALL_END,),
    trim=str,
    unescape=unescaped,
)


class KimiK3(CallFormat):
    """Types stand with the arguments."""

    name = "kimi_k3"
    writable = re.compile(r"[^<]{1,256}")
    starts = (_SECTION,)
    markers = (*XTML_TOKENS, _SECTION, _END)
    sections = (CallSection(trigger=_SECTION, begin=_SECTION, end=_END, between=""),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader("<|open|>call", _CALL_END, _END, lambda at: TagReader(TAGS, tools, at))

    def frame(self, name: str) -> tuple[str, str]:
        attribute = name.replace("&", "&amp;").replace('"', "&quot;")
        begin = f'<|open|>call tool="{attribute}" index="{NUMBER}"<|sep|>'
        return f'{begin}<|open|>json type="object"<|sep|>', f"{_JSON_END}{_CALL_END}"


FORMAT = KimiK3()
