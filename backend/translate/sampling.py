"""The table of sampling fields: what each wire value means, zero above all.

proto3 cannot tell zero from unset, so each field has one answer, given here and nowhere else:

| field            | zero means        | other special values            | default of the worker |
|------------------|-------------------|---------------------------------|-----------------------|
| Temperature      | greedy            | below 0.001 is greedy           | none: always a value  |
| TopK             | the model default | -1 is off; the vocabulary or more is off | off          |
| TopP             | the model default | 1 is off                        | 1                     |
| MinP             | the model default |                                 | 0, off                |
| TypicalP         | the model default | 1 is off                        | 1                     |
| Penalty          | the model default | 1 is off                        | 1                     |
| Repeat           | the model default | -1 is the whole context         | 64                    |
| PresencePenalty  | the model default |                                 | 0, off                |
| FrequencyPenalty | the model default |                                 | 0, off                |
| Seed             | the seed 0        | Metadata `seed=random` draws one | none: always a value |
| Tokens           | the model default | below zero: to the end of the context | to the end of the context |

The model default is what LoadModel's Options set, else the worker's. Ranges are checked by
`backend.core.request`, which sees the result.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from backend.core.errors import InvalidRequest
from backend.core.request import MAX_LOGIT_BIASES, MIN_TEMPERATURE, Sampling
from backend.pb import backend_pb2 as pb
from backend.translate.strict_json import parse_object
from backend.translate.wire_limits import MAX_LOGIT_BIAS_BYTES

_UNSET: Final = object()
_TOKEN_ID = re.compile(r"-?[0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How one wire field becomes one attribute of `Sampling`; `read` gives `_UNSET` to keep the default."""

    wire: str
    attribute: str
    read: Callable[[Any], Any]


def _as_is(value: float) -> float:
    return value


def _greedy_below_the_least(value: float) -> float:
    return 0.0 if 0.0 < value < MIN_TEMPERATURE else value


def _unless_zero(value: float) -> Any:
    return _UNSET if value == 0 else value


def _minus_one_is_none(value: int) -> Any:
    return None if value == -1 else _unless_zero(value)


FIELDS: tuple[FieldRule, ...] = (
    FieldRule("Temperature", "temperature", _greedy_below_the_least),
    FieldRule("TopK", "top_k", _minus_one_is_none),
    FieldRule("TopP", "top_p", _unless_zero),
    FieldRule("MinP", "min_p", _unless_zero),
    FieldRule("TypicalP", "typical_p", _unless_zero),
    FieldRule("Penalty", "repetition_penalty", _unless_zero),
    FieldRule("Repeat", "penalty_window", _minus_one_is_none),
    FieldRule("PresencePenalty", "presence_penalty", _unless_zero),
    FieldRule("FrequencyPenalty", "frequency_penalty", _unless_zero),
    FieldRule("Seed", "seed", _as_is),
    FieldRule("IgnoreEOS", "ignore_eos", bool),
)


def sampling_of(
    wire: pb.PredictOptions, defaults: Sampling, *, draw_seed: Callable[[], int] = lambda: secrets.randbits(63)
) -> Sampling:
    """The request's sampling over the model's defaults.

    Raises:
        InvalidRequest: A value is out of range, not finite, or not readable.
    """
    values = {rule.attribute: rule.read(getattr(wire, rule.wire)) for rule in FIELDS}
    changes = {name: value for name, value in values.items() if value is not _UNSET}
    for key in ("xtc_probability", "xtc_threshold"):
        if key in wire.Metadata:
            changes[key] = metadata_number(key, wire.Metadata[key])
    if wire.LogitBias:
        changes["logit_bias"] = logit_bias_of(wire.LogitBias)
    if wire.Metadata.get("seed") == "random":
        changes["seed"] = draw_seed()
    return replace(defaults, **changes)


def max_tokens_of(tokens: int, default: int | None) -> int | None:
    """Most tokens to generate; None is to the end of the context."""
    if tokens > 0:
        return tokens
    return default if tokens == 0 else None


def metadata_number(key: str, text: str) -> float:
    """A number out of the text-only Metadata map."""
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"Metadata[{key}]", "must be a number") from None


def logit_bias_of(text: str) -> tuple[tuple[int, float], ...]:
    """`{"<token id>": bias, ...}`; those of ids outside the vocabulary are left out later, by `Sampling.within`."""
    biases = parse_object("LogitBias", text, max_bytes=MAX_LOGIT_BIAS_BYTES)
    if len(biases) > MAX_LOGIT_BIASES:
        raise InvalidRequest("LogitBias", f"has {len(biases)} entries, limit {MAX_LOGIT_BIASES}")
    pairs: dict[int, float] = {}
    for key, bias in biases.items():
        if not _TOKEN_ID.fullmatch(key):
            raise InvalidRequest("LogitBias", "keys must be token ids")
        # bool is an int to Python, not to JSON.
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise InvalidRequest("LogitBias", f"the bias of token {key} must be a number")
        pairs[int(key)] = _as_float(key, bias)
    return tuple(sorted(pairs.items()))


def _as_float(key: str, bias: float) -> float:
    try:
        return float(bias)
    except OverflowError:  # an integer of hundreds of digits
        raise InvalidRequest("LogitBias", f"the bias of token {key} is out of range") from None
