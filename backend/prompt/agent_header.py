"""The header that agent clients put before a system prompt.

`x-anthropic-<name>:` and `key=value;` items, one of them a hash that differs from request to request. It says
nothing to a model and makes every prompt unique after some thirty tokens, so that no prefix is ever shared.
"""

import re

# Hosts join system blocks without a separator, so instructions may follow right after the last `;`, on the same
# line. Hence: no space inside an item, and space between items is taken only when an item follows.
_HEADER = re.compile(r"x-anthropic-[A-Za-z0-9_-]+:(?:[ \t]*[A-Za-z0-9_][A-Za-z0-9_.-]*=[^;\s]*;)+")


def strip_agent_header(text: str) -> str:
    """The text without the header at its very start; every other byte as it was."""
    header = _HEADER.match(text)
    return text[header.end() :] if header else text
