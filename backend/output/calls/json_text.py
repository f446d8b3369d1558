"""JSON as models write it, in; JSON that every client reads, out."""

import json
import math
import sys
from typing import Any

from backend.output.sections import Section


class NotACall(ValueError):
    """The text after a start marker is no tool call; it is given back as it was written.

    Attributes:
        section: Which section that text is of, where its header says so.
    """

    section: Section | None = None


def load_json(text: str) -> Any:
    """Decode JSON as models write it: line breaks inside strings are allowed, numbers are finite.

    Raises:
        NotACall: It is no JSON, or nested too deep.
    """
    try:
        return json.loads(text, strict=False, parse_float=finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotACall("not JSON") from error


def finite(text: str) -> float:
    """A number's value. JSON has no limit; one beyond a double's range becomes the largest, as no client reads more."""
    value = float(text)
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def dump_json(value: Any) -> str:
    """JSON text that is valid everywhere: no NaN, and no lone surrogate outside an escape.

    Raises:
        NotACall: The value has no JSON (infinite numbers, sets), or is nested too deep.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if is_utf8(text) else json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotACall("no JSON for it") from error


def is_utf8(text: str) -> bool:
    """Whether `text` can be sent: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
