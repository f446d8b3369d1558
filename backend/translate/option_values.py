"""Values of load options: text from `Options`, JSON from `EngineArgs`; each reader takes both.

A reader raises `OptionValueError` with what the value must be.
"""

import math
import re
from collections.abc import Callable, Collection
from typing import Any

from backend.config import ALL_DRAFTERS, Drafter
from backend.core.errors import InvalidRequest
from backend.core.request import Json
from backend.translate.conversation import kwargs_fault
from backend.translate.strict_json import parse_object

Reader = Callable[[Json], Any]


class OptionValueError(Exception):
    """A value is not what its key takes; the message says what it must be."""


_FLAGS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
OFF = frozenset(word for word, meant in _FLAGS.items() if not meant)
_DTYPES = {
    **dict.fromkeys(("", "auto"), ""),
    **dict.fromkeys(("float16", "fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("float32", "fp32", "f32", "float"), "float32"),
}
_SIZE = re.compile(r"([0-9]{1,18})\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
MAX_JSON_BYTES = 256 << 10


def text(value: Json) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise OptionValueError("must be text")
    return value


def flag(value: Json) -> bool:
    """true or false, also 1/0, yes/no, on/off; a key alone is true."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | int) or str(value).lower() not in _FLAGS:
        raise OptionValueError("must be true or false")
    return _FLAGS[str(value).lower()]


def integer(low: int, high: int = 2**31 - 1) -> Reader:
    """A whole number in [low, high]."""

    def read(value: Json) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionValueError(f"must be a whole number in [{low}, {high}]")
        return value

    return read


def integer_or_none(low: int, none_up_to: int) -> Reader:
    """A whole number of at least `low`; None up to `none_up_to`."""
    read_integer = integer(low)

    def read(value: Json) -> int | None:
        number: int = read_integer(value)
        return None if number <= none_up_to else number

    return read


def number(low: float, high: float) -> Reader:
    """A finite number in [low, high]."""

    def read(value: Json) -> float:
        refusal = OptionValueError(f"must be a number in [{low:g}, {high:g}]")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise refusal
        try:
            parsed = float(value)
        except (ValueError, OverflowError):
            raise refusal from None
        if not math.isfinite(parsed) or not low <= parsed <= high:
            raise refusal
        return parsed

    return read


def size(value: Json) -> int:
    """Bytes: a whole number, or with a unit: `512MB` is decimal, `512MiB` and `512M` are powers of 1024."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise OptionValueError("must be a size in bytes, such as 1073741824 or 1GiB")
    assert isinstance(value, str)
    digits, unit, binary = match.groups()
    decimal = not binary and value.strip().lower().endswith("b")
    return int(digits) * (1000 if decimal else 1024) ** _POWER[unit.lower()]


def euclidean(value: Json) -> bool:
    """Whether vectors get the Euclidean length 1, by llama.cpp's numbers: 2 for that, -1 for as they are."""
    if str(value) not in ("2", "-1") or isinstance(value, bool):
        raise OptionValueError("must be 2 (Euclidean) or -1 (none)")
    return str(value) == "2"


def auto_or(reader: Reader) -> Reader:
    """None for `auto`, else what `reader` reads; zero is a value."""

    def read(value: Json) -> Any:
        return None if isinstance(value, str) and value.lower() == "auto" else reader(value)

    return read


def size_or_off(value: Json) -> int:
    """Bytes, as `size`; `off` is none of them."""
    return 0 if value is False or (isinstance(value, str) and value.lower() in OFF) else size(value)


def off_or(reader: Reader) -> Reader:
    """None for `off` and for a zero, which would be over before it began; else what `reader` reads."""

    def read(value: Json) -> Any:
        off = value is False or (isinstance(value, str) and value.lower() in OFF)
        return None if off else reader(value) or None

    return read


def one_of(*choices: str) -> Reader:
    """One of some words."""

    def read(value: Json) -> str:
        if not isinstance(value, str) or value.lower() not in choices:
            raise OptionValueError(f"must be one of {', '.join(choice or 'empty' for choice in choices)}")
        return value.lower()

    return read


def one_of_numbers(*choices: int) -> Reader:
    """One of some whole numbers."""
    read_integer = integer(min(choices), max(choices))

    def read(value: Json) -> int:
        refusal = OptionValueError(f"must be {' or '.join(map(str, choices))}")
        try:
            number: int = read_integer(value)
        except OptionValueError:
            raise refusal from None
        if number not in choices:
            raise refusal
        return number

    return read


def parser_name(known: Callable[[], Collection[str]]) -> Reader:
    """The name of a parser that there is, in any case, with `-` or `_`; empty for none given."""

    def read(value: Json) -> str:
        if not isinstance(value, str):
            raise OptionValueError("must be text")
        names = known()
        if value and value.strip().lower().replace("-", "_") not in names:
            raise OptionValueError(f"names no parser that there is; take none or one of {', '.join(sorted(names))}")
        return value

    return read


def drafters(value: Json) -> frozenset[Drafter]:
    """What may guess at tokens to come: `auto` is all that there are, `off` none; or some of them, joined by commas."""
    words = [word.strip().lower() for word in value.split(",")] if isinstance(value, str) else []
    if value is False or (len(words) == 1 and words[0] in OFF):
        return frozenset()
    if words == ["auto"]:
        return ALL_DRAFTERS
    if not words or not set(Drafter) >= set(words):
        raise OptionValueError(f"must be auto, off, or some of {', '.join(Drafter)} joined by commas")
    return frozenset(map(Drafter, words))


def json_object(value: Json) -> dict[str, Json]:
    """A JSON object, also as text."""
    if isinstance(value, str):
        try:
            return parse_object("it", value, max_bytes=MAX_JSON_BYTES)
        except InvalidRequest as error:
            raise OptionValueError(error.message.removeprefix("it: ")) from None
    if not isinstance(value, dict):
        raise OptionValueError("must be a JSON object")
    return value


def template_kwargs(value: Json) -> dict[str, Json]:
    """Arguments for the chat template: a JSON object that leaves the template and its input alone."""
    kwargs = json_object(value)
    if fault := kwargs_fault(kwargs):
        raise OptionValueError(fault)
    return kwargs


def dtype(value: Json) -> str:
    """A floating point type of weights; empty keeps the checkpoint's."""
    if not isinstance(value, str) or value.lower() not in _DTYPES:
        raise OptionValueError("must be auto, float16, bfloat16 or float32")
    return _DTYPES[value.lower()]
