"""DeepSeek: sections of calls, since V3.1 each a name, a separator and JSON arguments.

V3 and R1 write `function`, the separator, the name, and the arguments in a fenced block of JSON.
"""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.call_format import CallFormat
from backend.output.calls.json_calls import HeaderCallReader, begun_header
from backend.output.calls.literals import skip_blank
from backend.output.calls.readers import BlockReader
from backend.output.calls.schema import ToolSchemas
from backend.output.calls.tags import begun

_SECTION, _END = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
_CALL, _CALL_END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
_SEPARATOR = "<\uff5ctool\u2581sep\uff5c>"
_HEADER = re.compile(rf"\s*(?P<name>[^\s<`]+)\s*{_SEPARATOR}")
_BEGUN = re.compile(r"\s*(?:[^\s<`]+\s*" + begun(_SEPARATOR) + ")?")
_FENCED = re.compile(r"\s*(?P<name>[^\s<`]+)\s*```(?:json)?\s*(?=\{)")
_FENCED_BEGUN = re.compile(r"\s*(?:[^\s<`]+\s*" + begun("```", begun("json", r"\s*") + r"\s*") + ")?")
_STOPS = (_CALL_END, f"```{_CALL_END}", f"```\n{_CALL_END}")


def header(body: str, at: int) -> tuple[str, str, int] | None:
    """The function, and where its arguments begin, in either dialect."""
    match = begun_header(_HEADER, _BEGUN, body, at)
    if match is None:
        return None
    begin = skip_blank(body, match.end())
    if match["name"] != "function" or body.startswith("{", begin):
        return match["name"], "", match.end()
    fenced = begun_header(_FENCED, _FENCED_BEGUN, body, begin)
    return (fenced["name"], "", fenced.end()) if fenced else None


class DeepSeekV3(CallFormat):
    """Arguments are JSON.

    Args:
        fenced: The template writes them in a fenced block.
    """

    name = "deepseek_v3"
    writable = re.compile(r"[^\s<`]{1,256}")
    starts = (_SECTION,)
    markers = (_SECTION, _CALL, _SEPARATOR, _CALL_END, _END)

    def __init__(self, *, fenced: bool = False) -> None:
        self._fenced = fenced
        between = "\n" if fenced else ""
        self.sections = (CallSection(trigger=_SECTION, begin=_SECTION, end=_END, between=between),)

    def reader(self, start: str, tools: ToolSchemas) -> BlockReader:
        return BlockReader(_CALL, _CALL_END, _END, lambda at: HeaderCallReader(header, _STOPS, at=at))

    def fitted(self, template: str) -> "DeepSeekV3":
        return DeepSeekV3(fenced="```json" in template)

    def frame(self, name: str) -> tuple[str, str]:
        if self._fenced:
            return f"{_CALL}function{_SEPARATOR}{name}\n```json\n", f"\n```{_CALL_END}"
        return f"{_CALL}{name}{_SEPARATOR}", _CALL_END


FORMAT = DeepSeekV3()
