"""Inputs from other inputs: changes of bytes and of text that leave most of it as it was."""

import random
import re
from collections.abc import Callable, Sequence

Words = Sequence[bytes]
Change = Callable[[random.Random, bytes, Words], bytes]

MOST_BYTES = 8192
MOST_AT_ONCE = 4
INTEGERS = (0, 1, 2, 7, 8, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 1000, 4095, 4096, 65535, 65536, 2**31 - 1,
2**31,
            2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
NUMBERS = ("0", "-0", "-1", "1", "2", "64", "1e999", "-1e-999", "1.5", "NaN", "Infinity", "0x10", "1_0", "٣", "9" * 30,
           "9" * 5000, "2147483648", "-2147483649", "18446744073709551616", "+1", "01", ".5", "5.")  # fmt: skip
ODD = ("\0", "\x1b", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "\ufffd", "\u202e", "\U0010ffff", "e\u0301", "ß", "İ",
       "\r\n", "\r", "\t", "\n\n", "\\", '"', "'", "`", "/", "<", ">", "{", "}", "[", "]", "(", ")", "%", "#", "|", ":",
       "{{", "}}", "{%", "\\u", "\\ud800", "\\x00", "true", "null", "None")  # fmt: skip
PAIRS = ("()", "[]", "{}", '""', "''", "<>")
_PIECE = re.compile(r"[^\W\d]+|\d+|\s+|.", re.DOTALL)


def change_bytes(rng: random.Random, data: bytes, words: Words) -> bytes:
    """Some bytes overwritten, left out, doubled or put in."""
    for _ in range(1 + rng.randrange(MOST_AT_ONCE)):
        data = rng.choice(_OF_BYTES)(rng, data, words)
    return data[:MOST_BYTES]


def change_text(rng: random.Random, data: bytes, words: Words) -> bytes:
    """The same of a text, by its words, numbers and brackets; the result is UTF-8."""
    pieces = _PIECE.findall(data.decode("utf-8", "replace"))
    known = [word.decode("utf-8", "replace") for word in rng.sample(words, min(len(words), 8))] or ["a"]
    for _ in range(1 + rng.randrange(MOST_AT_ONCE)):
        rng.choice(_OF_TEXT)(rng, pieces, known)
    return "".join(pieces)[:MOST_BYTES].encode("utf-8", "replace")


def span(rng: random.Random, length: int, most: int = 32) -> tuple[int, int]:
    """Where something short begins and ends."""
    start = rng.randrange(length + 1)
    return start, min(length, start + rng.randrange(1, most))


def _flip(rng: random.Random, data: bytes, words: Words) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _integer(rng: random.Random, data: bytes, words: Words) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTEGERS) & (1 << 8 * size) - 1
    at = rng.randrange(len(data) + 1)
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _put_in(rng: random.Random, data: bytes, words: Words) -> bytes:
    at = rng.randrange(len(data) + 1)
    put = rng.choice(words) if words and rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 9))
    return data[:at] + put + data[at + rng.choice((0, len(put))) :]


def _leave_out(rng: random.Random, data: bytes, words: Words) -> bytes:
    start, end = span(rng, len(data), rng.choice((4, 32, 256)))
    return data[:start] + data[end:]


def _double(rng: random.Random, data: bytes, words: Words) -> bytes:
    start, end = span(rng, len(data))
    return data[:start] + data[start:end] * rng.choice((2, 2, 3, 50)) + data[end:]


def _move(rng: random.Random, data: bytes, words: Words) -> bytes:
    start, end = span(rng, len(data))
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


_OF_BYTES = (_flip, _flip, _integer, _put_in, _put_in, _leave_out, _double, _move)


def _word(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    start, end = span(rng, len(pieces), 4)
    pieces[start : rng.choice((start, end))] = [rng.choice(rng.choice((words, ODD)))]


def _number(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    places = [at for at, piece in enumerate(pieces) if piece.isdigit()] or [rng.randrange(len(pieces) + 1)]
    at = rng.choice(places)
    pieces[at : at + 1] = [rng.choice(NUMBERS)]


def _less(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    start, end = span(rng, len(pieces), rng.choice((2, 8, 40)))
    del pieces[start:end]


def _again(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    start, end = span(rng, len(pieces), rng.choice((2, 8, 40)))
    part = pieces[start:end]
    count = rng.choice((1, 1, 2, 70, 1000))
    pieces[end:end] = part * min(count, 1 + MOST_BYTES // (2 * max(1, len("".join(part)))))


def _elsewhere(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    start, end = span(rng, len(pieces), 8)
    part = pieces[start:end]
    at = rng.randrange(len(pieces) + 1)
    pieces[at:at] = part


def _wrap(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    start, end = span(rng, len(pieces), 16)
    (left, right), count = rng.choice(PAIRS), rng.choice((1, 1, 2, 65, 200))
    pieces[end:end] = [right] * count
    pieces[start:start] = [left] * count


def _odd(rng: random.Random, pieces: list[str], words: list[str]) -> None:
    point = rng.choice((rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)))
    at = rng.randrange(len(pieces) + 1)
    pieces[at : at + rng.randrange(2)] = [chr(0xFFFD if 0xD800 <= point < 0xE000 else point)]


_OF_TEXT = (_word, _word, _word, _number, _less, _less, _again, _elsewhere, _wrap, _odd)
