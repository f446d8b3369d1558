"""The ways to write a call, for answers that are held to one: in their format, typed by the tool's schema."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from backend.core.call_shape import Shape, TextLimits
from backend.output.calls.call_format import NotForceable
from backend.output.calls.schema import resolved

# What each argument's schema needs of the whole one: definitions, and how white space is held.
CARRIED = ("$defs", "definitions", "x-guidance")
# They relate arguments to each other; an argument that is written by itself knows nothing of the others.
_OF_THE_WHOLE = (
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "patternProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
)

_ASCII = {"d": "0-9", "w": "A-Za-z0-9_"}

Json = Mapping[str, Any]


def argument_shapes(
    parameters: Json, writable: re.Pattern[str], shape_of: Callable[[Json], Shape]
) -> list[tuple[str, Shape, bool]]:
    """Each declared argument: its name, the shape of its value, whether it is required.

    An argument that need not be there and cannot be written is left out; so are those that are not declared.

    Args:
        shape_of: The shape of a value that fits a schema, which brings its definitions along.

    Raises:
        NotForceable: A required argument cannot be written, or the schema relates arguments to each other.
    """
    root = resolved(parameters, parameters)
    for keyword in _OF_THE_WHOLE:
        if keyword in root:
            raise NotForceable(f"arguments written one by one cannot be held to {keyword!r} of all of them")
    properties = root["properties"] if isinstance(root.get("properties"), Mapping) else {}
    wanted = [name for name in _list(root.get("required")) if isinstance(name, str)]
    found: list[tuple[str, Shape, bool]] = []
    for name in dict.fromkeys([*properties, *wanted]):
        try:
            found.append((name, _argument(name, properties.get(name), parameters, writable, shape_of), name in wanted))
        except NotForceable as error:
            if name in wanted:
                raise NotForceable(f"argument {name!r}: {error}") from error
    return found


def _argument(
    name: str, schema: Any, root: Json, writable: re.Pattern[str], shape_of: Callable[[Json], Shape]
) -> Shape:
    if writable.fullmatch(name) is None:
        raise NotForceable("its name cannot be written")
    if schema is False:
        raise NotForceable("its schema takes no value")
    own = dict(schema) if isinstance(schema, Mapping) else {}
    return shape_of({**{key: root[key] for key in CARRIED if key in root}, **own})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def written(value: Any) -> str:
    """A value as formats without quotes write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def choices(schema: Json) -> list[Any] | None:
    """The values of `enum` or `const`; None if the schema has neither."""
    own = resolved(schema, schema)
    if "const" in own:
        return [own["const"]]
    return own["enum"] if isinstance(own.get("enum"), list) else None


def text_limits(schema: Json) -> TextLimits:
    """`minLength`, `maxLength` and `pattern` of a string.

    Raises:
        NotForceable: The pattern has anchors elsewhere than at its ends.
    """
    least, most, pattern = schema.get("minLength"), schema.get("maxLength"), schema.get("pattern")
    return TextLimits(
        least=least if isinstance(least, int) and least >= 0 else 0,
        most=most if isinstance(most, int) and most >= 0 else None,
        pattern=_whole(pattern) if isinstance(pattern, str) else "",
    )


def _whole(pattern: str) -> str:
    """A pattern that is searched for, as one that matches all of a text."""
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    inner = pattern[1 if begins else 0 : len(pattern) - 1 if ends else len(pattern)]
    # What is escaped, in a class or in a group is not where an anchor's reach ends.
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "", inner, flags=re.DOTALL)
    anchors = re.search(r"\\[bBAzZ]", re.sub(r"\\\\", "", inner)) or re.search(r"[\^$]|\(\?[=!<]", bare)
    while (shorter := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = shorter
    if anchors or ((begins or ends) and "|" in bare):
        raise NotForceable("its pattern has anchors or looks around within")
    return ("" if begins else "(?s:.*)") + f"(?:{_in_ascii(inner)})" + ("" if ends else "(?s:.*)")


def _in_ascii(pattern: str) -> str:
    """Digits and word characters are ASCII in a schema's patterns (ECMA-262), and Unicode in llguidance's."""
    found, in_class = "", False
    for match in re.finditer(r"\\.|.", pattern, re.DOTALL):
        token = match[0]
        in_class = token == "[" or (in_class and token != "]")
        kind = _ASCII.get(token[-1].lower(), "") if len(token) == 2 else ""
        if not kind or (in_class and token[-1].isupper()):
            found += token
        else:
            found += kind if in_class else f"[^{kind}]" if token[-1].isupper() else f"[{kind}]"
    return found
