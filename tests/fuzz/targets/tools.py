"""Tools and ToolChoice, to the grammar that holds an answer to a call in the form of every format."""

import json
import random
import zlib

from backend.core.errors import InvalidRequest
from backend.grammar.dialects import to_lark
from backend.grammar.tools import strict_functions, tool_grammar
from backend.output import NotForceable
from backend.output.formats import formats
from backend.translate.conversation import tool_choice_of, tools_of
from tests.e2e.odd_values import SCHEMAS
from tests.e2e.odd_values import TOOLS as ODD_TOOLS
from tests.fuzz.changing import Words
from tests.fuzz.structures import change_json
from tests.fuzz.target import Broken, Target
from tests.grammar.schemas import linked_parameters, random_parameters, random_schema
from tests.output.golden import TOOLS, format_named

_FORMATS = tuple(format_named(name) for name in sorted(formats()))
_CHOICES = ("required", "auto", {"type": "function", "function": {"name": "f"}}, "none", {"type": "tool", "name": "f"},
            {"type": "allowed_tools", "allowed_tools": {"mode": "required",
            "tools": [{"function": {"name": "f"}}]}})  # fmt: skip
_KEYWORDS = (
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "anyOf", "oneOf",
    "allOf", "not", "if", "then", "$ref", "$defs", "definitions", "pattern", "format", "minLength", "maxLength",
    "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "minProperties", "strict",
    "maxProperties", "patternProperties", "propertyNames", "default", "nullable", "description", "x-guidance", "string",
    "integer", "number", "boolean", "array", "object", "null", "date-time", "#", "#/$defs/a", "^\\d+$", "(?i)a|b", "</",
)  # fmt: skip
_WORDS = [word.encode() for word in _KEYWORDS]
_A_TIME = 4


def tools() -> Target:
    """A JSON array of Tools and ToolChoice."""
    rng = random.Random(1)
    schemas = [make(rng, depth) for make in (random_parameters, linked_parameters) for depth in (0, 1, 2, 2)]
    schemas += [{"type": "object", "properties": {"a": random_schema(rng, 2)}, "required": ["a"]} for _ in range(6)]
    schemas += [{"type": "object", "properties": {"a": schema}} for schema in SCHEMAS]
    made = [[{"type": "function", "function": {"name": "f", "parameters": schema}}] for schema in schemas]
    seeds = [json.dumps([tool, _CHOICES[at % len(_CHOICES)]]).encode() for at, tool in enumerate([*made, *ODD_TOOLS])]
    seeds += [json.dumps([[*TOOLS], choice]).encode() for choice in _CHOICES]
    return Target(run=_tools, seeds=seeds, change=change_schema, refusals=(InvalidRequest,))


def _tools(data: bytes) -> None:
    try:
        told = json.loads(data)
        texts = [json.dumps(part) for part in told[:2]] if isinstance(told, list) and len(told) > 1 else []
    except (ValueError, RecursionError):
        texts = []
    text, choice_text = texts or [data.decode("utf-8", "replace"), ""]
    choice, found = tool_choice_of(choice_text, tools_of(text))
    rng = random.Random(zlib.crc32(data))
    for output_format in rng.sample(_FORMATS, _A_TIME):
        try:
            strict = strict_functions(found)
            held = strict if choice.mode == "auto" else None
            calls = output_format.forced_calls(found, choice.function, held=held)
            made = tool_grammar(calls, choice, sections=output_format.call_sections, strict=bool(strict))
        except (NotForceable, InvalidRequest) as error:
            if "\n" in str(error):
                raise Broken("a reason of several lines", str(error)) from error
            continue
        if made is not None:
            to_lark(made.grammar)


def change_schema(rng: random.Random, data: bytes, words: Words) -> bytes:
    """JSON of a schema, or of what holds some."""
    return change_json(rng, data, [*words, *_WORDS])
