"""What may stand between the tags of a call's argument, for answers that are held to one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backend.core.call_shape import Either, Fixed, FreeText, JsonValue, Member, Members, Repeated, Shape, TextLimits
from backend.output.calls.call_format import NotForceable
from backend.output.calls.forcing import CARRIED, Json, argument_shapes, choices, text_limits, written
from backend.output.calls.number_ranges import bounded_pattern
from backend.output.calls.schema import resolved, schema_types, typed
from backend.output.calls.tags import Tags

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
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "$comment", *CARRIED})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_MAX_DEPTH = 8


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
    values, types = choices(schema), schema_types(schema, schema)
    end = tags.write_tail + tags.value_end
    if values is not None:
        texts = [written(value) for value in values if _survives(tags, value, types)]
        if not texts:
            raise NotForceable("none of its values can be written")
        return (Either(tuple((Fixed(text + end),) for text in texts)),)
    if types and "string" not in types:
        return JsonValue(schema), Fixed(end)
    structured, limits = _options(tags, schema, types)
    shapes: list[Shape] = [(JsonValue(option), Fixed(end)) for option in structured]
    if limits:
        shapes.append(_free_text(tags, limits, only_text=types == _TEXT, unlike_json=bool(structured)))
    if not shapes:
        raise NotForceable("none of its values can be written")
    return shapes[0] if len(shapes) == 1 else (Either(tuple(shapes)),)


def _told_apart(tags: Tags, schema: Json) -> Shape:
    """A value of which the opening says whether it is a text."""
    shapes: list[Shape] = []
    for option in alternatives(schema):
        values, types = choices(option), schema_types(option, option)
        if values is not None:
            for value in values:
                lead = tags.write_text if isinstance(value, str) else tags.write_json
                if tags.value_end not in written(value):
                    shapes.append((Fixed(lead + written(value) + tags.value_end),))
            continue
        if not types or "string" in types:
            limits = text_limits(resolved(option, option)) if types == _TEXT else TextLimits()
            shapes.append((Fixed(tags.write_text), FreeText(end=tags.value_end, limits=(limits,))))
        if types != _TEXT:
            kinds = sorted(types - _TEXT) or [*_READ_AS, *_STRUCTURED]
            shapes.append((Fixed(tags.write_json), JsonValue({**option, "type": kinds}), Fixed(tags.value_end)))
    if not shapes:
        raise NotForceable("none of its values can be written")
    return shapes[0] if len(shapes) == 1 else (Either(tuple(shapes)),)


def _options(tags: Tags, schema: Json, types: frozenset[str]) -> tuple[list[Json], tuple[TextLimits, ...]]:
    """Of a value that may be a string: the objects and arrays it may be too, and the texts."""
    structured: list[Json] = []
    limits: list[TextLimits] = []
    unlike = "|".join(sorted({_READ_AS[kind] for kind in types & _READ_AS.keys()}))
    for option in alternatives(schema):
        values, own = choices(option), schema_types(option, option)
        if values is not None:
            limits += [exactly(written(value)) for value in values if _survives(tags, value, types)]
        elif own and not own.isdisjoint(_STRUCTURED) and "string" not in own:
            structured.append(option)
        elif own and "string" not in own:
            patterns = [_scalar(kind, resolved(option, option)) for kind in sorted(own)]
            limits += [TextLimits(pattern=pattern) for pattern in patterns if pattern]
        else:
            held = text_limits(resolved(option, option)) if own == _TEXT else TextLimits()
            limits.append(replace(held, unlike=unlike))
    return structured, tuple(limits)


def exactly(text: str) -> TextLimits:
    """This text and no other."""
    return TextLimits(pattern=re.escape(text).replace("\\\n", "\\n"))


def _scalar(kind: str, schema: Json) -> str | None:
    """How a value of such a type is written where a string may stand too; numbers with bounds are whole ones."""
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


def alternatives(schema: Json, depth: int = 0) -> list[Json]:
    """The schemas of a union, each with the definitions; one that is no union is its own only one."""
    own = resolved(schema, schema)
    carried = {key: schema[key] for key in CARRIED if key in schema}
    kinds = own.get("type")
    if isinstance(kinds, list) and choices(schema) is None:
        options: list[Any] = [{**own, "type": kind} for kind in kinds]
    else:
        keyword = "anyOf" if "anyOf" in own else "oneOf"
        options = own[keyword] if isinstance(own.get(keyword), list) else []
        if own.keys() - {keyword} - _ANNOTATIONS or (keyword == "oneOf" and _overlap(options, schema)):
            options = []
    if depth > _MAX_DEPTH or not options:
        return [schema]
    schemas = [option if isinstance(option, Mapping) else {} for option in options if option is not False]
    return [each for option in schemas for each in alternatives({**carried, **option}, depth + 1)]


def _overlap(options: list[Any], root: Json) -> bool:
    """Whether a value may fit two of the options, as far as their types tell."""
    kinds = [schema_types(option, root) if isinstance(option, Mapping) else frozenset[str]() for option in options]
    return not all(kinds) or sum(map(len, kinds)) > len(frozenset[str]().union(*kinds))


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
    return type(read) is type(value) and read == value
