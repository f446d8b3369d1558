"""Tags of arguments with a key and a value each, which several formats write: `<arg_key>` and `<arg_value>`."""

import re

from backend.output.calls.tags import Tags, begun

_WORDS = r"[^\s<>]+(?:\s+[^\s<>]+)*"


def arg_key_tags(prefix: str = "", *, separator: str = "", held: bool = False) -> Tags:
    """`<arg_key>` and `<arg_value>`, with a prefix.

    Args:
        separator: Behind the function's name.
        held: No end tag is left out.
    """
    key, key_end = f"<{prefix}arg_key>", f"</{prefix}arg_key>"
    value, end = f"<{prefix}arg_value>", f"</{prefix}tool_call>"
    name, goes_on = r"[\w.:/-]{1,256}", rf"(?=\s*(?:{key}|{end}))"
    return Tags(
        head=re.compile(rf"(?P<name>{name})" + (rf"\s*{separator}" if separator else goes_on)),
        head_begun=re.compile(rf"(?:{name}\s*{begun(separator) if separator else f'(?:{begun(key)}|{begun(end)})'})?"),
        opening=re.compile(rf"{key}\s*(?P<key>{_WORDS})\s*{key_end}(?:\\n|\s)*{value}"),
        opening_begun=re.compile(begun(key, "[^<>]*" + begun(key_end, r"(?:\\n|\s)*\\?" + begun(value)))),
        value_end=f"</{prefix}arg_value>",
        close=(end,),
        starts=() if held else (f"<{prefix}tool_call>",),
        guess=True,
        write_head=f"<{prefix}tool_call>{{name}}{separator}\n",
        write_opening=f"{key}{{key}}{key_end}\n{value}",
        write_after="\n",
        write_close=end,
        writable=re.compile(name),
    )
