"""Tokens to what a chat client shows: text, stop strings, reasoning, tool calls. Pure; no MLX.

`OutputFormat` and `TokenTable` are made once a model; `OutputStream` once a request.
"""

from backend.output.calls.call_format import NotForceable
from backend.output.format import OutputFormat
from backend.output.sections import PlainParser, SectionParser
from backend.output.stream import OutputStream
from backend.output.text.decoding import TokenDecoder
from backend.output.text.token_table import TokenTable

__all__ = [
    "NotForceable",
    "OutputFormat",
    "OutputStream",
    "PlainParser",
    "SectionParser",
    "TokenDecoder",
    "TokenTable",
]
