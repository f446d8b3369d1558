"""The ways to write a call, for answers that are held to one: in their format, typed by the tool's schema."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from backend.core.call_shape import Either, Fixed, FreeText, JsonValue, Member, Members, Shape
from backend.output.calls.call_format import NotForceable
from backend.output.calls.schema import resolved, schema_types, typed
from backend.output.calls.tag_calls import Tags

_DEFINITIONS = ("$defs", "definitions")
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

Json = Mapping[str, Any]
_TEXT = frozenset(["string"])


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
    return shape_of({**{key: root[key] for key in _DEFINITIONS if key in root}, **own})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def tagged_shape(tags: Tags, name: str, parameters: Json) -> Shape:
    """A call in tags.

    Raises:
        NotForceable: The function's name or an argument cannot be written, or the schema is not one of arguments.
    """
    if tags.writable.fullmatch(name) is None:
        raise NotForceable("its name cannot be written")
    members: list[Member] = []
    for key, value, required in argument_shapes(parameters, tags.writable, lambda schema: _tagged(tags, schema)):
        opening, after = Fixed(tags.write_opening.replace("{key}", key)), Fixed(tags.write_after)
        members.append(Member((opening, *value, *([after] if after.text else [])), required))
    return Fixed(tags.write_head.replace("{name}", name)), Members(tuple(members)), Fixed(tags.write_close)


def _tagged(tags: Tags, schema: Json) -> Shape:
    """A value and its end tag."""
    values = choices(schema)
    types = schema_types(schema, schema)
    end = tags.write_tail + tags.value_end
    if values is not None:
        texts = [written(value) for value in values if _survives(tags, value, types)]
        if not texts:
            raise NotForceable("none of its values can be written")
        return (Either(tuple((Fixed(text + end),) for text in texts)),)
    if types and "string" not in types:
        return JsonValue(schema), Fixed(end)
    limits = text_limits(resolved(schema, schema) if types == _TEXT else {})
    if tags.quoted is None:
        bare_of = "blanks" if tags.trim is str.strip else "" if tags.write_tail else "line breaks"
        return (FreeText(end=tags.value_end, tail=tags.write_tail, bare_of=bare_of, **limits),)
    quoted = Fixed(tags.quoted[0]), FreeText(end=tags.quoted[1], **limits), Fixed(tags.value_end)
    if limits or types != _TEXT:
        return quoted
    return (Either(((FreeText(end=tags.value_end, bare_of="blanks", pattern="[^<]*"),), quoted)),)


def written(value: Any) -> str:
    """A value as formats without quotes write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _survives(tags: Tags, value: Any, types: frozenset[str]) -> bool:
    """Whether the value is read again as itself."""
    text = written(value)
    if tags.value_end in text or (tags.quoted and text.lstrip().startswith(tags.quoted[0])):
        return False
    tail = tags.write_tail
    read = typed(tags.trim(tail + text + tail), types, guess=tags.guess)
    return type(read) is type(value) and read == value


def choices(schema: Json) -> list[Any] | None:
    """The values of `enum` or `const`; None if the schema has neither."""
    own = resolved(schema, schema)
    if "const" in own:
        return [own["const"]]
    return own["enum"] if isinstance(own.get("enum"), list) else None


def text_limits(schema: Json) -> dict[str, Any]:
    """`minLength`, `maxLength` and `pattern` for a `FreeText`.

    Raises:
        NotForceable: The pattern has anchors elsewhere than at its ends.
    """
    limits: dict[str, Any] = {}
    for keyword, name in (("minLength", "least"), ("maxLength", "most")):
        value = schema.get(keyword)
        if isinstance(value, int) and value >= 0:
            limits[name] = value
    if isinstance(schema.get("pattern"), str):
        limits["pattern"] = _whole(schema["pattern"])
    return limits


def _whole(pattern: str) -> str:
    """A pattern that is searched for, as one that matches all of a text."""
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    inner = pattern[1 if begins else 0 : len(pattern) - 1 if ends else len(pattern)]
    anchored = begins or ends
    if re.search(r"(?<![\\\[])\^|(?<!\\)\$|\\[bBAzZ]|\(\?[=!<]", inner) or (anchored and "|" in inner):
        raise NotForceable("its pattern has anchors or looks around within")
    return ("" if begins else "(?s:.*)") + f"(?:{inner})" + ("" if ends else "(?s:.*)")
