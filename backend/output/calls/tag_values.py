"""What may stand between the tags of a call's argument, for answers that are held to one."""

from dataclasses import replace
from typing import Any

from backend.core.call_shape import (
    Either,
    Fixed,
    FreeText,
    JsonValue,
    Member,
    Members,
    NotForceable,
    NotWritable,
    Repeated,
    Shape,
    TextLimits,
)
from backend.output.calls.forcing import argument_shapes, written
from backend.output.calls.merging import Json, equal
from backend.output.calls.number_ranges import bounded_pattern
from backend.output.calls.references import listed
from backend.output.calls.schema import typed
from backend.output.calls.tags import Tags
from backend.output.calls.unions import Union, choices, exactly, text_limits

_TEXT = frozenset(["string"])
_STRUCTURED = frozenset(["object", "array"])
# What is read as another type where a string may stand too.
_NUMBER = r"\s*[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*"
_READ_AS = {
    "null": r"\s*(?i:null)\s*",
    "boolean": r"\s*(?i:true|false)\s*",
    "integer": _NUMBER,
    "number": _NUMBER,
}
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
# What a number is held to where a string may stand too, besides its bounds; other types' keywords say nothing of it.
_BESIDE_NUMBERS = ("not", "if", "allOf", "anyOf", "oneOf", "$dynamicRef", "$recursiveRef")


_KEY = TextLimits(pattern=r"[A-Za-z0-9_.\-]{1,64}")


def tagged_shape(tags: Tags, name: str, parameters: Json | None) -> Shape:
    """A call in tags, with any arguments where there is no schema.

    Raises:
        NotForceable: The function's name or an argument cannot be written, or the schema is not one of arguments.
    """
    if tags.writable.fullmatch(name) is None:
        raise NotForceable("its name cannot be written")
    head, close = Fixed(tags.write_head.replace("{name}", name)), Fixed(tags.write_close)
    if parameters is None:
        return head, Repeated(_any_argument(tags)), close
    members: list[Member] = []
    for key, value, required in argument_shapes(parameters, tags.writable_key, lambda schema: _tagged(tags, schema)):
        opening, after = Fixed(tags.write_opening.replace("{key}", key)), Fixed(tags.write_after)
        members.append(Member((opening, *value, *([after] if after.text else [])), required))
    return head, Members(tuple(members)), close


def _any_argument(tags: Tags) -> Shape:
    value = _tagged(tags, {} if tags.write_text else {"type": "string"})
    before, _, behind = tags.write_opening.partition("{key}")
    return Fixed(before), FreeText(end=behind, limits=(_KEY,)), *value, Fixed(tags.write_after)


def _tagged(tags: Tags, schema: Json) -> Shape:
    """A value and its end tag."""
    if tags.write_text:
        return _told_apart(tags, schema)
    union, end = Union(schema), tags.write_tail + tags.value_end
    types = union.types
    if types and "string" not in types:
        return _json(schema, types), Fixed(end)
    options = union.options()
    values_of = [choices(option) for option in options]
    texts = [written(value) for values in values_of for value in values or () if _survives(tags, value, types)]
    if None not in values_of:
        return _either([(Fixed(text + end),) for text in dict.fromkeys(texts)])
    structured: list[Shape] = []
    limits: list[TextLimits] = [exactly(text) for text in texts]
    unlike = "|".join(sorted({_READ_AS[kind] for kind in types & _READ_AS.keys()}))
    for option in (option for option, values in zip(options, values_of, strict=True) if values is None):
        own = union.document.types(option)
        if not own or "string" in own:
            limits.append(replace(text_limits(option), unlike=unlike))
            continue
        if not own.isdisjoint(_STRUCTURED):
            structured.append((JsonValue({**option, "type": sorted(own & _STRUCTURED)}), Fixed(end)))
        patterns = [_scalar(kind, option) for kind in sorted(own - _STRUCTURED)]
        limits += [TextLimits(pattern=pattern) for pattern in patterns if pattern]
    free = _free_text(tags, tuple(limits), only_text=types == _TEXT, unlike_json=bool(structured))
    return _either([*structured, *([free] if limits else [])])


def _told_apart(tags: Tags, schema: Json) -> Shape:
    """A value of which the opening says whether it is a text."""
    shapes: list[Shape] = []
    union = Union(schema)
    for option in union.options():
        types, end = union.document.types(option), Fixed(tags.value_end)
        if types and "string" not in types:
            shapes.append((Fixed(tags.write_json), _json(option, types), end))
            continue
        values = choices(option)
        for value in values or ():
            lead = tags.write_text if isinstance(value, str) else tags.write_json
            if tags.value_end not in written(value):
                shapes.append((Fixed(lead + written(value) + tags.value_end),))
        if values is None:
            shapes.append((Fixed(tags.write_text), FreeText(end=tags.value_end, limits=(text_limits(option),))))
        if values is None and not types:
            kinds = frozenset(_READ_AS) | _STRUCTURED
            shapes.append((Fixed(tags.write_json), _json(option, kinds), end))
    return _either(shapes)


def _json(schema: Json, types: frozenset[str]) -> JsonValue:
    """JSON of the types that the reader takes for a schema, also where the schema does not name them."""
    named = "type" in schema or listed(schema) is not None
    return JsonValue(schema if named else {**schema, "type": sorted(types)})


def _either(shapes: list[Shape]) -> Shape:
    if not shapes:
        raise NotWritable("none of its values can be written")
    return shapes[0] if len(shapes) == 1 else (Either(tuple(shapes)),)


def _scalar(kind: str, schema: Json) -> str | None:
    """How a value of such a type is written where a string may stand too; numbers with bounds are whole ones."""
    for keyword in _BESIDE_NUMBERS:
        if keyword in schema:
            raise NotForceable(f"a {kind} that may be a text too is not held to {keyword!r}")
    match kind:
        case "null":
            return "null"
        case "boolean":
            return "true|false"
        case "number" if not schema.keys() & _BOUNDS:
            return r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
        case "integer" | "number":
            return bounded_pattern(schema)
        case _:
            return None


def _free_text(tags: Tags, limits: tuple[TextLimits, ...], *, only_text: bool, unlike_json: bool) -> Shape:
    """Text and its end tag."""
    if tags.quoted is None:
        bare_of = "blanks" if tags.trim is str.strip else "" if tags.write_tail else "line breaks"
        free = FreeText(
            end=tags.value_end, tail=tags.write_tail, limits=limits, bare_of=bare_of, unlike_json=unlike_json
        )
        return (free,)
    inner = FreeText(end=tags.quoted[1], limits=limits, unlike_json=unlike_json)
    quoted = Fixed(tags.quoted[0]), inner, Fixed(tags.value_end)
    if limits != (TextLimits(),) or not only_text:
        return quoted
    bare = FreeText(end=tags.value_end, bare_of="blanks", limits=(TextLimits(pattern="[^<]*"),))
    return (Either(((bare,), quoted)),)


def _survives(tags: Tags, value: Any, types: frozenset[str]) -> bool:
    """Whether the value is read again as itself."""
    text = written(value)
    if tags.value_end in text or (tags.quoted and text.lstrip().startswith(tags.quoted[0])):
        return False
    tail = tags.write_tail
    read = typed(tags.trim(tail + text + tail), types, guess=tags.guess)
    return equal(read, value)
