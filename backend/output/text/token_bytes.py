"""Token strings to bytes, by the spelling that the tokenizer's decoder undoes."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a tokenizer's token strings spell bytes.

    Attributes:
        byte_level: Token strings are in GPT-2's byte alphabet.
        byte_fallback: `<0x0A>` is one byte.
        replace: Pairs (written, meant), such as the metaspace and a space.
        strip_leading_space: One space at the start of the answer is dropped.
    """

    byte_level: bool = False
    byte_fallback: bool = False
    replace: tuple[tuple[str, str], ...] = ()
    strip_leading_space: bool = False


def token_bytes(token: str, spelling: Spelling, *, literal: bool = False) -> bytes:
    """Bytes of a token string; `literal` ones (added tokens) are written as they are unless they decode."""
    if spelling.byte_level:
        alphabet = byte_alphabet()
        try:
            data = bytes([alphabet[char] for char in token])
        except KeyError:
            return token.encode()
        return token.encode() if literal and not _is_utf8(data) else data
    if spelling.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(match[1], 16)])
    for written, meant in spelling.replace:
        token = token.replace(written, meant)
    return token.encode()


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as in its published `bytes_to_unicode`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(0x100) if byte not in set(printable))
    alphabet.update((chr(0x100 + i), byte) for i, byte in enumerate(others))
    return alphabet


def spelling_of(decoder: Any) -> Spelling | None:
    """A `tokenizers` decoder as a `Spelling`, or None if its tokens have no bytes of their own."""
    if decoder is None:
        return None
    state = json.loads(decoder.__getstate__())
    parts: Sequence[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else (state,)
    return _combine(parts)


def _combine(parts: Iterable[dict[str, Any]]) -> Spelling | None:
    byte_level = byte_fallback = strip = False
    replace: list[tuple[str, str]] = []
    for part in parts:
        match part:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": written}, "content": meant}:
                replace.append((written, meant))
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                strip = True
            case {"type": "Metaspace", "replacement": written}:
                replace.append((written, " "))
                strip = strip or part.get("prepend_scheme", "always") != "never"
            case _:
                return None
    if byte_level and (replace or byte_fallback or strip):
        return None
    return Spelling(
        byte_level=byte_level,
        byte_fallback=byte_fallback,
        replace=tuple(replace),
        strip_leading_space=strip,
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
