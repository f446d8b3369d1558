"""JSON from clients: parsed strictly, and every way of failing is one `InvalidRequest` that names the field."""

import json
import math
import re
from dataclasses import dataclass
from typing import Never

from backend.core.errors import InvalidRequest
from backend.core.request import Json
from backend.core.utf8 import is_unicode, utf8_size

MAX_DEPTH = 64
# A value of two characters, such as [], becomes an object of a hundred bytes, which is copied and written again.
MAX_VALUES = 1 << 16
# A string, the last one also where its end is missing, so that each character is looked at once.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


@dataclass(slots=True)
class JsonBudget:
    """How many values the JSON fields of one request may still have together."""

    left: int = MAX_VALUES

    def take(self, field: str, text: str) -> None:
        """Count the values of a JSON text before it is parsed, from above: an empty list counts twice.

        Raises:
            InvalidRequest: They are too many.
        """
        outside = _STRING.sub("", text)
        self.left -= outside.count(",") + outside.count("[") + outside.count("{")
        if self.left < 0:
            raise InvalidRequest(field, f"has, with the JSON before it, over {MAX_VALUES} values")


def parse_json(field: str, text: str, *, max_bytes: int, budget: JsonBudget | None = None) -> Json:
    """Parse a wire field that holds JSON.

    Args:
        budget: Shared by fields that count together; else the field has one of its own.

    Raises:
        InvalidRequest: Not JSON, or JSON that would not survive being written again: NaN, infinities, numbers
            beyond a double, unpaired surrogates; or deeper than `MAX_DEPTH`, longer than `max_bytes`, or of more
            values than the budget has.
    """
    if utf8_size(text) > max_bytes:
        raise InvalidRequest(field, f"has {utf8_size(text)} bytes of JSON, limit {max_bytes}")
    (budget or JsonBudget()).take(field, text)
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise InvalidRequest(field, f"is JSON nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(field, f"is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:  # an integer of thousands of digits, and our own two refusals
        raise InvalidRequest(field, f"is not usable JSON: {error}") from None
    _check(field, value, MAX_DEPTH)
    return value


def parse_object(field: str, text: str, *, max_bytes: int) -> dict[str, Json]:
    """`parse_json` of what must be an object."""
    value = parse_json(field, text, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise InvalidRequest(field, "must be a JSON object")
    return value


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _check(field: str, value: Json, depth: int) -> None:
    if depth < 0:
        raise InvalidRequest(field, f"is JSON nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        _check_text(field, value)
    elif isinstance(value, list):
        for item in value:
            _check(field, item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(field, key)
            _check(field, item, depth - 1)


def _check_text(field: str, text: str) -> None:
    if not is_unicode(text):
        raise InvalidRequest(field, "has an unpaired surrogate in a JSON string")
