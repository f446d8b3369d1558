"""Small grammars that take everything."""

import json
from typing import Any

from backend.core.request import Grammar


def doubling(salt: str = "", depth: int = 40) -> str:
    """A JSON schema of 3 kB whose definitions each need the next one twice: two to the power of `depth`."""
    definitions: dict[str, Any] = {}
    for i in range(depth):
        definitions[f"x{i}"] = {"allOf": [{"$ref": f"#/$defs/x{i + 1}"}, {"$ref": f"#/$defs/x{i + 1}"}]}
    definitions[f"x{depth}"] = {"type": "string", "pattern": "a.*", "description": salt}
    return json.dumps({"$defs": definitions, "$ref": "#/$defs/x0"})


def optional_properties(count: int, salt: str = "") -> str:
    """A JSON schema of an object of which every property may be left out; work grows with the square."""
    return json.dumps({"type": "object", "properties": {f"p{i}{salt}": {"type": "string"} for i in range(count)}})


def chain(length: int) -> str:
    """A JSON schema of definitions each of which refers to the next; work goes as deep as it is long."""
    definitions: dict[str, Any] = {f"x{i}": {"$ref": f"#/$defs/x{i + 1}"} for i in range(length)}
    definitions[f"x{length}"] = {"type": "null"}
    return json.dumps({"$defs": definitions, "$ref": "#/$defs/x0"})


DEAR = Grammar(kind="json_schema", text=doubling())
