"""The schema of a forced call's arguments: of an object, whose `$ref`s all lead to definitions of its own."""

from collections.abc import Callable, Mapping
from typing import Any

from backend.core.call_shape import NotForceable
from backend.output.calls.merging import ANNOTATIONS, Json
from backend.output.calls.references import Document

# What holds for a whole document, and so goes along with each part of it.
CARRIED = ("$defs", "$schema", "x-guidance")
_NAMED = (
    "properties",
    "patternProperties",
    "dependentSchemas",
    "dependencies",
)
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
# They would change what a `$ref` within them leads to.
_PLACES = ("$defs", "definitions", "$id", "$anchor")


def call_parameters(parameters: Any) -> Json:
    """What a tool says of its arguments, as a schema of an object that stands for itself.

    A `$ref` may be any pointer into the schema; afterwards each leads to a definition, and those are all there are.

    Raises:
        NotForceable: The schema is none of an object, or a `$ref` in it leads nowhere or only to itself.
    """
    if parameters is None or parameters is True:
        return {"type": "object"}
    if not isinstance(parameters, Mapping):
        raise NotForceable("its parameters are no JSON schema of an object")
    document = Document(parameters)
    root, types = document.flat(parameters), document.types(parameters)
    if types and "object" not in types:
        raise NotForceable(f"its parameters are of type {', '.join(sorted(types))}, and arguments are an object")
    if not isinstance(root.get("properties", {}), Mapping):
        raise NotForceable("'properties' of its parameters is no object")
    required = root.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise NotForceable("'required' of its parameters is no list of names")
    return {**_Definitions(document).whole(root), "type": "object"}


class _Definitions:
    """Gives every schema that a `$ref` leads to a name of its own. The work is linear in the document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[int, str] = {}
        self._targets: list[Any] = []

    def whole(self, root: Json) -> Json:
        """The root, and all definitions that it needs."""
        self._name_targets(root)
        definitions = {self._names[id(target)]: self._parts(target) for target in self._targets}
        return {**self._parts(root), **({"$defs": definitions} if definitions else {})}

    def _name_targets(self, root: Json) -> None:
        seen: set[int] = set()
        todo: list[Any] = [root]
        while todo:
            schema = todo.pop()
            if not isinstance(schema, Mapping) or id(schema) in seen:
                continue
            seen.add(id(schema))
            if "$ref" in schema:
                target = self._document.target(schema["$ref"])
                self._document.flat(schema)
                if id(target) not in self._names:
                    self._names[id(target)] = f"r{len(self._names)}"
                    self._targets.append(target)
                todo.append(target)
            _map_parts(schema, todo.append)

    def _written(self, schema: Any) -> Any:
        """A schema in its place: by its name, if it has one."""
        if id(schema) in self._names and isinstance(schema, Mapping):
            return self._reference(schema)
        return self._parts(schema)

    def _reference(self, target: Any) -> Json:
        return {"$ref": f"#/$defs/{self._names[id(target)]}"}

    def _parts(self, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        found: dict[str, Any] = _map_parts(schema, self._written)
        if "$ref" not in schema:
            return found
        reference = self._reference(self._document.target(schema["$ref"]))
        del found["$ref"]
        if found.keys() <= ANNOTATIONS:
            return {**found, **reference}
        # Older drafts leave out what stands beside a `$ref`.
        every = found.get("allOf")
        return {**found, "allOf": [reference, *(every if isinstance(every, list) else [])]}


def _map_parts(schema: Json, write: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy with other schemas within it."""
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            found[key] = {name: write(each) for name, each in value.items()}
        elif key in _LISTED and isinstance(value, list):
            found[key] = [write(each) for each in value]
        elif key in _SINGLE and isinstance(value, Mapping):
            found[key] = write(value)
        elif key not in _PLACES:
            found[key] = value
    return found
