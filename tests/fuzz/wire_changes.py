"""Changes of messages on protobuf's wire."""

import random

from tests.fuzz.changing import INTEGERS, Change, Words, change_bytes, change_text
from tests.fuzz.structures import BLIND_SHARE, change_json

Fields = list[tuple[int, int, int | bytes]]


def change_wire(rng: random.Random, data: bytes, words: Words) -> bytes:
    """A message with a field changed, left out, doubled, moved or of another number or type."""
    fields = read_wire(data)
    if fields is None or rng.random() < BLIND_SHARE:
        return change_bytes(rng, data, words)
    for _ in range(1 + rng.randrange(3)):
        _change_fields(rng, fields, words)
    return write_wire(fields)


def read_wire(data: bytes) -> Fields | None:
    """Number, wire type and value of each field; None for what is no message, or has groups."""
    fields: Fields = []
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            kind, value = tag & 7, b""
            if kind == 0:
                value, at = _varint(data, at)
            elif kind in (1, 2, 5):
                size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
                value, at = data[at : at + size], at + size
            else:
                return None
            if at > len(data) or not tag >> 3:
                return None
            fields.append((tag >> 3, kind, value))
    except IndexError:
        return None
    return fields


def write_wire(fields: Fields) -> bytes:
    """The message of these fields."""
    out = bytearray()
    for number, kind, value in fields:
        out += varint(number << 3 | kind)
        if isinstance(value, int):
            out += varint(value)
        else:
            out += (varint(len(value)) if kind == 2 else b"") + value
    return bytes(out)


def varint(value: int) -> bytes:
    """A number in groups of seven bits."""
    out = bytearray()
    value &= 2**64 - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _change_fields(rng: random.Random, fields: Fields, words: Words) -> None:
    if not fields or rng.random() < 0.1:
        number = rng.randrange(1, 64) if rng.random() < 0.8 else rng.randrange(1, 2**29)
        text = rng.random() < 0.5
        new = (number, 2, rng.choice(words or [b"x"])) if text else (number, 0, rng.choice(INTEGERS))
        fields.insert(rng.randrange(len(fields) + 1), new)
        return
    at = rng.randrange(len(fields))
    number, kind, value = fields[at]
    match rng.randrange(10):
        case 0:
            del fields[at]
        case 1:
            fields[at:at] = [fields[at]] * rng.choice((1, 2, 70))
        case 2:
            fields.insert(rng.randrange(len(fields)), fields.pop(at))
        case 3:
            fields[at] = (rng.randrange(1, 64), kind, value)
        case 4:
            kind, size = rng.choice(((1, 8), (5, 4), (2, rng.randrange(12))))
            fields[at] = (number, kind, rng.randbytes(size))
        case _:
            fields[at] = (number, kind, _changed_value(rng, kind, value, words))


def _changed_value(rng: random.Random, kind: int, value: int | bytes, words: Words) -> int | bytes:
    if isinstance(value, int):
        return rng.choice((*INTEGERS, value + 1, -value, 2**64 - 1))
    if kind != 2:
        return rng.choice(
            (change_bytes(rng, value, words).ljust(len(value), b"\xff")[: len(value)], b"\0" * len(value))
        )
    if value[:1] in (b"{", b"["):
        return change_json(rng, value, words)
    inner = read_wire(value)
    nested: Change = change_wire if inner and rng.random() < 0.6 else change_text
    return nested(rng, value, words)
