"""DeepSeek V3.2 and V4: DSML, tags that say whether an argument is a text.

    <DSML function_calls>
    <DSML invoke name="NAME">
    <DSML parameter name="KEY" string="true">text</DSML parameter>
    </DSML invoke>
    </DSML function_calls>

with DeepSeek's own bars around DSML and no space. V4 calls the section `tool_calls`.
"""

import re

from backend.core.call_shape import CallSection
from backend.output.calls.tag_formats import TagBlockFormat
from backend.output.calls.tags import Tags, begun
from backend.output.choice import DSML

_INVOKE, _INVOKE_END = f'<{DSML}invoke name="', f"</{DSML}invoke>"
_PARAMETER = f'<{DSML}parameter name="'
_NAME_BEGUN = r"[^\"<>]*(?:\"\s*>?)?"
_TYPE_BEGUN = r"[^\"<>]*(?:\"\s*(?:" + begun('string="', r"[a-z]*(?:\"\s*)?") + r")?)?"

TAGS = Tags(
    head=re.compile(r'(?P<name>[^"<>]+)"\s*>'),
    head_begun=re.compile(_NAME_BEGUN),
    opening=re.compile(rf'{_PARAMETER}(?P<key>[^"<>]+)"\s*(?:string="(?P<string>true|false)"\s*)?>'),
    opening_begun=re.compile(begun(_PARAMETER, _TYPE_BEGUN)),
    value_end=f"</{DSML}parameter>",
    close=(_INVOKE_END,),
    trim=str,
    write_head=f'{_INVOKE}{{name}}">\n',
    write_opening=f'{_PARAMETER}{{key}}" string=',
    write_text='"true">',
    write_json='"false">',
    write_after="\n",
    write_close=_INVOKE_END,
    writable=re.compile(r'[^\s"<>][^"<>]{0,255}'),
    writable_key=re.compile(r'[^\s"<>][^"<>]{0,255}'),
)


class DeepSeekV32(TagBlockFormat):
    """Texts as they are, all else JSON.

    Args:
        section: What the template calls a section of calls.
    """

    name = "deepseek_v32"
    markers = (DSML, *(f"<{slash}{DSML}{name}>" for name in ("function_calls", "tool_calls") for slash in ("", "/")))
    tags = TAGS
    block = (_INVOKE, _INVOKE_END)

    def __init__(self, section: str = "function_calls") -> None:
        self.starts = tuple(sorted((self.markers[1], self.markers[3]), key=lambda start: section not in start))
        self.sections = tuple(
            CallSection(trigger=start, begin=f"{start}\n", end=f"\n{self.section_end(start)}", between="\n")
            for start in self.starts
        )

    @property
    def call_end(self) -> str:
        return self.section_end(self.starts[0])

    def section_end(self, start: str) -> str:
        return start.replace("<", "</")

    def fitted(self, template: str) -> "DeepSeekV32":
        return DeepSeekV32("function_calls" if "function_calls" in template else "tool_calls")


FORMAT = DeepSeekV32()
