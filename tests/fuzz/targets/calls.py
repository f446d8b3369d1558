"""What a model may write, to the parser of every format: content, reasoning, tool calls."""

import importlib
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any

from backend.core.events import Piece
from backend.output.formats import formats
from tests.fuzz.changing import Words, change_text
from tests.fuzz.target import Broken, Target
from tests.grammar.json_prefix import is_json_prefix
from tests.output.cutting import calls_in, run
from tests.output.golden import TOOLS, format_named

NAMES = tuple(sorted(formats()))
_FORMATS = tuple(format_named(name) for name in NAMES)
_MARKERS = sorted({marker.encode() for each in _FORMATS for marker in each.markers})
_MOST = 3000
_OPENS, _IN_PARTS, _CUT = 1, 2, 4


def calls() -> Target:
    """The first byte says which format it is, the second how the parser is made, the others are the text."""
    return Target(run=_parse, seeds=list(_seeds()), change=_change)


def _seeds() -> Iterator[bytes]:
    for at, name in enumerate(NAMES):
        for number, golden in enumerate(importlib.import_module(f"tests.output.formats.test_{name}").GOLDEN):
            how = golden.opens_reasoning * _OPENS | number % 2 * _IN_PARTS
            yield bytes((at, how)) + golden.text.encode()[:_MOST]


def _parse(data: bytes) -> None:
    at = data[0] % len(NAMES) if data else 0
    flags = data[1] if len(data) > 1 else 0
    text = data[2:].decode("utf-8", "replace")[:_MOST]
    rng = random.Random(zlib.crc32(data))
    how: dict[str, Any] = {
        name: bool(flags & bit) for name, bit in (("opens_reasoning", _OPENS), ("in_parts", _IN_PARTS), ("cut", _CUT))
    }
    whole = run(_FORMATS[at], [text], tools=TOOLS, **how)
    _check(NAMES[at], whole, in_parts=how["in_parts"])
    for parts in (_cut(rng, text), list(text)):
        if run(_FORMATS[at], parts, tools=TOOLS, **how) != whole:
            raise Broken(f"{NAMES[at]}: another answer where its text comes in parts", (how, parts))


def _check(name: str, whole: Piece, *, in_parts: bool) -> None:
    told = "".join([whole.content, whole.reasoning, *(call.arguments + call.name for call in whole.tool_calls)])
    told.encode()
    if in_parts:
        if not all(is_json_prefix(arguments) for _, arguments in calls_in(whole)):
            raise Broken(f"{name}: arguments that begin no JSON", calls_in(whole))
    else:
        for function, arguments in calls_in(whole):
            if not isinstance(json.loads(arguments), dict):
                raise Broken(f"{name}: arguments that are no object", (function, arguments))


def _cut(rng: random.Random, text: str) -> list[str]:
    points = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 8)))
    return [text[i:j] for i, j in zip([0, *points], [*points, len(text)], strict=True)]


def _change(rng: random.Random, data: bytes, words: Words) -> bytes:
    head = data[:2] if rng.random() < 0.85 else rng.randbytes(2)
    return head + change_text(rng, data[2:], [*words, *_MARKERS])[:_MOST]
