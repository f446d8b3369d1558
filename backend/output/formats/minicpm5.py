"""MiniCPM 5: `<function name="NAME"><param name="KEY">VALUE</param></function>`, CDATA around difficult values."""

import re

from backend.output.calls.call_format import Call, CallFormat
from backend.output.calls.json_text import NotACall
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import DelimitedReader, begins
from backend.output.calls.schema import ToolSchemas, typed

_NAME = re.compile(r"\s*(?:\"([^\"'<>\n]{1,256})\"|'([^\"'<>\n]{1,256})'|([^\s\"'<>]{1,256}))\s*>")
# Takes every beginning of what _NAME takes.
_NAME_BEGUN = re.compile(r"\s*[\"']?[^\"'<>\n]{0,256}[\"']?\s*")
_PARAM = re.compile(r"\s*<param\s+name\s*=")
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*?)\]\]>\s*</param>", re.DOTALL)
_PLAIN = re.compile(r"(.*?)</param>", re.DOTALL)


def parse(body: str, tools: ToolSchemas) -> tuple[Call, ...]:
    """The one call, from after `<function name=` to before `</function>`.

    Raises:
        NotACall: There is something else than a name and params.
    """
    name, at = _name(body, 0)
    arguments: dict[str, object] = {}
    while param := _PARAM.match(body, at):
        key, at = _name(body, param.end())
        quoted = _CDATA.match(body, at)
        value = quoted or _PLAIN.match(body, at)
        if value is None:
            raise NotACall("a param without end")
        text = value[1] if quoted else value[1].strip()
        arguments[key] = typed(text, tools.types(name, key), guess=False)
        at = value.end()
    if skip_blank(body, at) != len(body):
        raise NotACall("something between the params")
    return (Call.of(name, arguments),)


def _name(text: str, at: int) -> tuple[str, int]:
    match = _NAME.match(text, at)
    if match is None:
        raise NotACall("no name")
    return match[1] or match[2] or match[3], match.end()


def _opens(body: str) -> bool:
    if match := _NAME.match(body):
        return begins(body, ("<param", "</function>"), skip_blank(body, match.end()))
    return _NAME_BEGUN.fullmatch(body) is not None


def _closes(body: str) -> bool:
    # Inside CDATA the end marker is text.
    return body.rfind("<![CDATA[") <= body.rfind("]]>")


class MiniCpm5(CallFormat):
    """Calls have no wrapper: several stand one after the other. Types come from the tool's schema."""

    name = "minicpm5"
    starts = ("<function name=",)
    markers = ("<function", "<param", "</param>", "</function>")

    def reader(self, start: str, tools: ToolSchemas) -> DelimitedReader:
        return DelimitedReader("</function>", lambda body: parse(body, tools), opens=_opens, closes=_closes)


FORMAT = MiniCpm5()
