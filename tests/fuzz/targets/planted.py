"""Targets with faults, for the tests of the fuzzer itself."""

import random

from tests.fuzz.changing import Words
from tests.fuzz.target import Target
from tests.fuzz.targets import planted_code


def planted() -> Target:
    """A fault behind four branches."""
    return Target(run=planted_code.look, seeds=[b"aaaaaaaa"], change=_letters)


def planted_ends() -> Target:
    """Inputs that take time or memory, or the process."""
    return Target(run=planted_code.endure, seeds=[b"", b"l", b"m"], change=_one_byte, seconds=0.5, memory=16 << 20)


def planted_death() -> Target:
    """One that ends the process, now and then."""
    return Target(
        run=planted_code.endure, seeds=[b"a"], change=lambda rng, data, words: rng.choice((b"a", b"a", b"d!"))
    )


def planted_hang() -> Target:
    """One that nothing in the process can end."""
    return Target(run=planted_code.endure, seeds=[b"a", b"h!"], change=_one_byte)


def _one_byte(rng: random.Random, data: bytes, words: Words) -> bytes:
    return b"a"


def _letters(rng: random.Random, data: bytes, words: Words) -> bytes:
    made = bytearray(data or b"a")
    for _ in range(rng.randrange(1, 3)):
        made[rng.randrange(len(made))] = rng.randrange(65, 91)
    return bytes(made)
