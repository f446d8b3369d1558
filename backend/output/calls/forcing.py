"""The ways to write a call, for answers that are held to one: in their format, typed by the tool's schema."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from backend.core.call_shape import Either, FreeText, JsonValue, NotForceable, NotWritable, Shape
from backend.output.calls.merging import Json
from backend.output.calls.parameters import CARRIED
from backend.output.calls.references import Document

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
    "unevaluatedProperties",
    "enum",
    "const",
    "$dynamicRef",
    "$recursiveRef",
)
_MOST_OPTIONS = 20_000
_MOST_SIZE = 16 << 20  # characters, as for grammars written out


def argument_shapes(
    parameters: Json, writable: re.Pattern[str], shape_of: Callable[[Json], Shape]
) -> list[tuple[str, Shape, bool]]:
    """Each declared argument: its name, the shape of its value, whether it is required.

    An argument that need not be there and cannot be written is left out; so are those that are not declared.

    Args:
        parameters: As `call_parameters` returns them.
        shape_of: The shape of a value that fits a schema, which brings its definitions along.

    Raises:
        NotForceable: A required argument cannot be written, or one cannot be held to its schema, or the schema relates
            arguments to each other.
    """
    for keyword in _OF_THE_WHOLE:
        if keyword in parameters:
            raise NotForceable(f"arguments written one by one cannot be held to {keyword!r} of all of them")
    declared, document, bounds = parameters.get("properties"), Document(parameters), _Bounds(parameters)
    wanted = [name for name in _list(parameters.get("required")) if isinstance(name, str)]
    found: list[tuple[str, Shape, bool]] = []
    for name in dict.fromkeys([*(declared if isinstance(declared, Mapping) else ()), *wanted]):
        try:
            if writable.fullmatch(name) is None:
                raise NotWritable("its name cannot be written")
            shape = shape_of(_standing_alone(document.argument(name), parameters))
        except NotWritable as error:
            if name in wanted:
                raise NotForceable(f"argument {name!r}: {error}") from error
            continue
        except NotForceable as error:
            raise NotForceable(f"argument {name!r}: {error}") from error
        bounds.add(shape)
        found.append((name, shape, name in wanted))
    return found


class _Bounds:
    """A short schema may be a long grammar: what a `$ref` leads to is written out for each argument."""

    def __init__(self, parameters: Json) -> None:
        self._carried = len(json.dumps({key: parameters[key] for key in CARRIED if key in parameters}))
        self._options = self._size = 0

    def add(self, shape: Shape) -> None:
        """Count one argument.

        Raises:
            NotForceable: It is one too many.
        """
        self._count(shape)
        if self._options > _MOST_OPTIONS or self._size > _MOST_SIZE:
            raise NotForceable("what its arguments refer to is too long, written out for each of them")

    def _count(self, shape: Shape) -> None:
        for part in shape:
            match part:
                case Either():
                    for option in part.options:
                        self._count(option)
                case FreeText():
                    self._options += len(part.limits)
                case JsonValue():
                    self._size += self._carried
                case _:
                    self._options += 1


def _standing_alone(schema: Any, root: Json) -> Json:
    if schema is False:
        raise NotWritable("its schema takes no value")
    own = dict(schema) if isinstance(schema, Mapping) else {}
    return {**{key: root[key] for key in CARRIED if key in root}, **own}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def written(value: Any) -> str:
    """A value as formats without quotes write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
