"""Changes of inputs that have a structure, so that what is behind its reader is met too: JSON, a header of it."""

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from tests.fuzz.changing import INTEGERS, MOST_BYTES, NUMBERS, ODD, Words, change_bytes, change_text

# Of changes that do not look at the structure.
BLIND_SHARE = 0.1
# Of changes to a single value in an object of few, which a walk from the top seldom comes to.
SETTING_SHARE = 0.3
_FEW = 16
_DEEP = (1, 1, 1, 64, 300)


def change_json(rng: random.Random, data: bytes, words: Words) -> bytes:
    """A value somewhere in it replaced, left out, moved, doubled or wrapped."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return change_text(rng, data, words)
    if rng.random() < BLIND_SHARE:
        return change_text(rng, data, words)
    try:
        for _ in range(1 + rng.randrange(3)):
            value = _setting(rng, value, words) if rng.random() < SETTING_SHARE else _changed(rng, value, words, value)
        made = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    except (ValueError, RecursionError):  # digits beyond Python's own limit
        made = b""
    return made if 0 < len(made) <= MOST_BYTES else change_text(rng, data, words)


def _changed(rng: random.Random, value: Any, words: Words, whole: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        return _changed_object(rng, value, words, whole)
    if isinstance(value, list) and value and rng.random() < 0.8:
        out = list(value)
        at = rng.randrange(len(out))
        match rng.randrange(6):
            case 0:
                del out[at]
            case 1:
                out[at:at] = [out[at]] * rng.choice((1, 2, 100))
            case _:
                out[at] = _changed(rng, out[at], words, whole)
        return out
    return _other(rng, value, words, whole)


def _changed_object(rng: random.Random, value: dict[str, Any], words: Words, whole: Any) -> Any:
    out = dict(value)
    key = rng.choice(list(out))
    match rng.randrange(8):
        case 0:
            del out[key]
        case 1:
            out[_word(rng, words)] = out[key]
        case 2:
            out[_word(rng, words)] = _leaf(rng, words)
        case 3:
            out = {(_word(rng, words) if k == key else k): v for k, v in out.items()}
        case _:
            out[key] = _changed(rng, out[key], words, whole)
    return out


def _other(rng: random.Random, value: Any, words: Words, whole: Any) -> Any:
    match rng.randrange(8):
        case 0:
            return _part(rng, whole)
        case 1:
            for _ in range(rng.choice(_DEEP)):
                value = [value]
            return value
        case 2:
            key = _word(rng, words)
            for _ in range(rng.choice(_DEEP)):
                value = {key: value}
            return value
        case 3 | 4 if isinstance(value, str) and value:
            inner = change_json if value[0] in "[{" else change_text
            return inner(rng, value.encode("utf-8", "replace"), words).decode("utf-8", "replace")
        case 5 if isinstance(value, int | float):
            return rng.choice((-value, value + 1, value * 8, value / 3 if abs(value) < 1e300 else 0, str(value)))
        case _:
            return _leaf(rng, words)


def _setting(rng: random.Random, value: Any, words: Words) -> Any:
    """A copy with another value for one key of a small object, each as likely as the next."""
    value = copy.deepcopy(value)
    settings = [(where, key) for where in _objects(value) if len(where) <= _FEW for key in where]
    if settings:
        where, key = rng.choice(settings)
        old = where[key]
        number = isinstance(old, int) and not isinstance(old, bool)
        where[key] = rng.choice((0, -1, old + 1, -old, 2**31, 2**63)) if number else _other(rng, old, words, value)
    return value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


def _part(rng: random.Random, value: Any) -> Any:
    while isinstance(value, dict | list) and value and rng.random() < 0.7:
        value = rng.choice(list(value.values()) if isinstance(value, dict) else value)
    return value


def _leaf(rng: random.Random, words: Words) -> Any:
    number = rng.choice(NUMBERS)
    return rng.choice((
        None, True, False, "", [], {}, 0, -1, 1.5, rng.choice(INTEGERS), -rng.choice(INTEGERS), 1e308, 5e-324, 10**400,
        float("nan"), float("inf"), number, rng.choice(ODD), _word(rng, words), _word(rng, words), "\ud800", "x" * 3000,
        [_word(rng, words)], {_word(rng, words): None},
    ))  # fmt: skip


def _word(rng: random.Random, words: Words) -> str:
    return rng.choice(words).decode("utf-8", "replace") if words and rng.random() < 0.9 else rng.choice(ODD)


def change_safetensors(rng: random.Random, data: bytes, words: Words) -> bytes:
    """A file whose header is changed as JSON, its length told rightly most of the time; or any of its bytes."""
    if len(data) < 8 or rng.random() < BLIND_SHARE:
        return change_bytes(rng, data, words)
    (size,) = struct.unpack_from("<Q", data)
    header, body = data[8 : 8 + size], data[8 + size :]
    header = change_json(rng, header, words)
    if rng.random() < 0.1:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + rng.randbytes(rng.randrange(64))
    told = len(header) if rng.random() < 0.9 else rng.choice(INTEGERS) & 2**64 - 1
    return struct.pack("<Q", told) + header + body
