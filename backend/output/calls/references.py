"""A tool's schema as one document: what `$ref` and `allOf` in it stand for, and which types a value may have.

The grammar of a forced call and the reader of any call both ask here, so that what is forced is what is read.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from typing import Any
from urllib.parse import unquote

from backend.core.call_shape import NotForceable
from backend.output.calls.merging import Json, common_types, merged, type_names

_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}
# What keywords are about, where nothing names a type.
_ABOUT = {
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
}
_MAX_DEPTH = 64
_MAX_PARTS = 64


class Document:
    """One JSON schema with all that its references lead to. Anything is read: schemas are client data."""

    def __init__(self, root: Any) -> None:
        self.root: Json = root if isinstance(root, Mapping) else {}
        self._flat: dict[int, tuple[Any, Json]] = {}  # with the schema, whose id is taken while it lives
        self._types: dict[int, tuple[Any, frozenset[str]]] = {}  # of schemas that lead nowhere into themselves
        self._asked: dict[int, tuple[Any, frozenset[str]]] = {}
        self._unfinished = 0  # types that were taken as far as they were known

    def target(self, reference: Any) -> Any:
        """The schema that a `$ref` leads to.

        Raises:
            NotForceable: It leads nowhere in this document; says where to.
        """
        own = self.root.get("$id")
        pointer = reference if isinstance(reference, str) else ""
        pointer = pointer.removeprefix(own.removesuffix("#")) if isinstance(own, str) else pointer
        if pointer != "#" and not pointer.startswith("#/"):
            raise NotForceable(f"$ref {reference!r} is no pointer into its own schema")
        node: Any = self.root
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isdecimal() and key.isascii() and int(key[:9]) < len(node):
                node = node[int(key[:9])]
            else:
                raise NotForceable(f"$ref {reference!r} leads nowhere")
        if not isinstance(node, Mapping | bool):
            raise NotForceable(f"$ref {reference!r} leads to no schema")
        return node

    def flat(self, schema: Any) -> Json:
        """A schema without `$ref`, and without `allOf` as far as one schema can say the same.

        Raises:
            NotForceable: A reference leads nowhere, only to itself, or through too many others.
        """
        return self._flattened(schema, ())

    def _flattened(self, schema: Any, through: tuple[int, ...]) -> Json:
        if not isinstance(schema, Mapping):
            return {"not": {}} if schema is False else {}
        options = schema.get("allOf")
        parts = options[:_MAX_PARTS] if isinstance(options, list) else []
        if "$ref" not in schema and not parts:
            return schema
        if id(schema) in self._flat:
            return self._flat[id(schema)][1]
        if id(schema) in through or len(through) >= _MAX_DEPTH:
            raise NotForceable(f"$ref {schema.get('$ref')!r} leads to itself, or through too many others")
        inner = (*through, id(schema))
        if "$ref" in schema:
            parts = [self.target(schema["$ref"]), *parts]
        found: Json = {}
        left = [] if not isinstance(options, list) else options[_MAX_PARTS:]
        own = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        flat = {id(part): part for part in (self._flattened(part, inner) for part in parts)}
        for part in [*flat.values(), own]:
            both = merged(found, part)
            if both is None:
                left.append(part)
            else:
                found = both
        if left:
            beside = found.get("allOf")
            found = {**found, "allOf": [*(beside if isinstance(beside, list) else []), *left]}
        self._flat[id(schema)] = schema, found
        return found

    def argument(self, name: str) -> Any:
        """The schema of one of the arguments, declared or not; None if it is free.

        Raises:
            NotForceable: As `flat`.
        """
        root = self.flat(self.root)
        properties = root.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return properties[name]
        return root.get("additionalProperties")

    def declared(self) -> frozenset[str]:
        """The names of arguments that the schema has; none where it leads nowhere."""
        with suppress(NotForceable):
            properties = self.flat(self.root).get("properties")
            if isinstance(properties, Mapping):
                return frozenset(name for name in properties if isinstance(name, str))
        return frozenset()

    def types(self, schema: Any) -> frozenset[str]:
        """JSON types that a schema allows: those it names, or else those that its keywords are about.

        Empty if it does not say. What leads nowhere says nothing.
        """
        if id(schema) not in self._asked:
            self._asked[id(schema)] = schema, self._types_within(schema, 0, {})
        return self._asked[id(schema)][1]

    def _types_within(self, schema: Any, depth: int, found: dict[int, frozenset[str]]) -> frozenset[str]:
        """`found` has what is known in this search. What a loop leads to depends on where the search began."""
        if not isinstance(schema, Mapping):
            return frozenset()
        if id(schema) in self._types:
            return self._types[id(schema)][1]
        if id(schema) in found or depth > _MAX_DEPTH:
            self._unfinished += 1
            return found.get(id(schema), frozenset())
        before = self._unfinished
        found[id(schema)] = frozenset()
        with suppress(NotForceable):
            found[id(schema)] = self._types_of(self.flat(schema), depth + 1, found)
        if self._unfinished == before:
            self._types[id(schema)] = schema, found[id(schema)]
        return found[id(schema)]

    def _types_of(self, flat: Json, depth: int, found: dict[int, frozenset[str]]) -> frozenset[str]:
        def each(keyword: str) -> list[frozenset[str]]:
            options = flat.get(keyword)
            return [self._types_within(option, depth, found) for option in options] if isinstance(options, list) else []

        own = type_names(flat.get("type")) or frozenset(map(json_type, listed(flat) or []))
        unions = [frozenset[str]().union(*each(keyword)) for keyword in ("anyOf", "oneOf")]
        said = [types for types in (own, *unions, *each("allOf")) if types]
        if said:
            return reduce(lambda one, other: common_types(one, other) or one, said)
        return frozenset(about(flat))


def listed(schema: Json) -> list[Any] | None:
    """The values of `const` or `enum`, if it has either."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def about(schema: Json) -> list[str]:
    """The types that its keywords are about."""
    return [kind for kind, keywords in _ABOUT.items() if not schema.keys().isdisjoint(keywords)]


def json_type(value: Any) -> str:
    """A value's type; whole numbers are integers."""
    if isinstance(value, float) and value.is_integer():
        return "integer"
    return _JSON_TYPES.get(type(value), "null")
