"""Names that the options `tool_parser` and `reasoning_parser` take."""

from backend.output.choice import FORMAT_ALIASES, REASONING_ALIASES
from backend.output.formats import formats

NO_PARSER = "none"


def tool_parsers() -> frozenset[str]:
    """Tool-call formats by their own and by other servers' names, and the word for none."""
    return frozenset({*formats(), *FORMAT_ALIASES, NO_PARSER})


def reasoning_parsers() -> frozenset[str]:
    """Reasoning markers by name; a tool-call format's name stands for its own, or for what the files say."""
    return tool_parsers() | frozenset(REASONING_ALIASES)
