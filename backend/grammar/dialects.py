"""Every dialect a request may use, as one: Lark as llguidance reads it."""

import json
from typing import Any

from backend.core.errors import InvalidRequest
from backend.core.request import Grammar
from backend.grammar.gbnf.nodes import GbnfError
from backend.grammar.gbnf.to_lark import gbnf_to_lark

MAX_TEXT_BYTES = 2 << 20

# Without a bound, a model that likes whitespace may never get out of it again.
_WHITESPACE = {"whitespace_pattern": r"[ \n\r\t]{1,64}"}

# Masks hold every token that fits. Forcing would hold only the tokenizer's own choice where the text is fixed,
# and asks the tokenizer, under the interpreter lock, in each step.
_OPTIONS = '%llguidance {"no_forcing": true}'


def to_lark(grammar: Grammar, *, finest: bool = False) -> str:
    """The grammar in Lark. Lines keep their numbers.

    Args:
        finest: Write GBNF with lexemes of single characters.

    Raises:
        InvalidRequest: It cannot be read.
    """
    match grammar.kind:
        case "gbnf":
            return _with_options(_gbnf(grammar.text, finest=finest))
        case "json_schema":
            return _with_options(f"start: {json_rule(_schema(grammar.text))}")
        case "regex":
            return _with_options(f"start: /{slashed(grammar.text)}/")
        case "lark":
            return _with_options(grammar.text)


def json_rule(schema: dict[str, Any], field: str = "Grammar") -> str:
    """A Lark expression for JSON that fits a schema.

    Raises:
        InvalidRequest: Its `x-guidance` is no object; names the field.
    """
    guidance = schema.get("x-guidance", {})
    if not isinstance(guidance, dict):
        raise InvalidRequest(field, "JSON schema: x-guidance must be an object")
    options = {**_WHITESPACE, **guidance}
    if options.get("whitespace_flexible") is False:
        options.pop("whitespace_pattern")
    return "%json " + json.dumps({**schema, "x-guidance": options})


def _with_options(lark: str) -> str:
    # Last, so that the lines before keep their numbers in messages.
    return f"{lark}\n{_OPTIONS}\n"


def _gbnf(text: str, *, finest: bool) -> str:
    try:
        return gbnf_to_lark(text, finest=finest)
    except GbnfError as error:
        raise InvalidRequest("Grammar", f"GBNF: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("Grammar", "GBNF: nested too deep") from error


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("Grammar", f"JSON schema: not valid JSON: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InvalidRequest("Grammar", "JSON schema: must be an object or true")
    return schema


def slashed(regex: str) -> str:
    """The expression between slashes: `/` and newlines of its own escaped, what is escaped already left alone."""
    out: list[str] = []
    escaped = False
    for char in regex:
        if char == "\n":
            out.append("n" if escaped else "\\n")
        elif char == "/" and not escaped:
            out.append("\\/")
        else:
            out.append(char)
        escaped = char == "\\" and not escaped
    return "".join(out)
