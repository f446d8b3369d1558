"""What `/set` sets: a name for each field of a request, and how its value is read. The worker knows the ranges."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Value = float | int | str
_INT32: Final = 1 << 31


def _integer(text: str) -> int:
    value = int(text)
    if not -_INT32 <= value < _INT32:
        raise ValueError
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e30:
        raise ValueError
    return value


def _flag(text: str) -> bool:
    flags = {"on": True, "true": True, "off": False, "false": False}
    if text.lower() not in flags:
        raise ValueError
    return flags[text.lower()]


_KINDS: Final[Mapping[Any, str]] = {_integer: "a whole number", _number: "a number", _flag: "on or off"}


@dataclass(frozen=True, slots=True)
class Field:
    """One setting.

    Attributes:
        wire: The field of PredictOptions, or where `is_metadata` the key of its Metadata.
    """

    wire: str
    read: Callable[[str], Value]
    is_metadata: bool = False


FIELDS: Final[Mapping[str, Field]] = {
    "temperature": Field("Temperature", _number),
    "top_k": Field("TopK", _integer),
    "top_p": Field("TopP", _number),
    "min_p": Field("MinP", _number),
    "typical_p": Field("TypicalP", _number),
    "repetition_penalty": Field("Penalty", _number),
    "frequency_penalty": Field("FrequencyPenalty", _number),
    "presence_penalty": Field("PresencePenalty", _number),
    "repeat_last_n": Field("Repeat", _integer),
    "xtc_probability": Field("xtc_probability", _number, is_metadata=True),
    "xtc_threshold": Field("xtc_threshold", _number, is_metadata=True),
    "reasoning_effort": Field("reasoning_effort", str, is_metadata=True),
    "max_tokens": Field("Tokens", _integer),
    "ignore_eos": Field("IgnoreEOS", _flag),
    "seed": Field("Seed", _integer),
}


def read(name: str, text: str) -> Value:
    """The value of a setting.

    Raises:
        ValueError: One sentence.
    """
    if name not in FIELDS:
        raise ValueError(f"There is no setting {name!r}: there are {', '.join(FIELDS)}.")
    try:
        return FIELDS[name].read(text)
    except ValueError:
        raise ValueError(f"{name} takes {_KINDS[FIELDS[name].read]}, not {text!r}.") from None


def fields(settings: Mapping[str, Value]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of PredictOptions, and entries of its Metadata."""
    wire = {FIELDS[name].wire: value for name, value in settings.items() if not FIELDS[name].is_metadata}
    metadata = {FIELDS[name].wire: str(value) for name, value in settings.items() if FIELDS[name].is_metadata}
    # The wire's zero is the seed 0: the same question would be answered alike for ever.
    if "seed" not in settings:
        metadata["seed"] = "random"
    return wire, metadata
