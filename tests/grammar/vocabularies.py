"""Small vocabularies, and answers spelled in them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.vocabulary import Vocabulary

BYTES = tuple(bytes([i]) for i in range(256))
ADDED = (b"<tool_call>", b"</tool_call>", b"<think>", b"</think>", b'{"', b'":', b"\n\n", b"hello", b"true", b">\n")
EOS = 256 + len(ADDED)
CONTROL = EOS + 1  # a control token that is no end
NOTHING = EOS + 2  # an id without text, as in padded vocabularies

BYTE_VOCABULARY = Vocabulary(
    [*BYTES, *ADDED, b"<|eos|>", b"<|call|>", *[b""] * 30], {"<|eos|>": EOS, "<|call|>": CONTROL}, (EOS,)
)


def token(text: bytes) -> int:
    """The id of an added token."""
    return 256 + ADDED.index(text)


def allowed(mask: NDArray[np.uint32] | None, size: int = BYTE_VOCABULARY.size) -> set[int]:
    """Ids that a mask allows."""
    if mask is None:
        return set(range(size))
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def walk(constraint: Constraint, tokens: Sequence[int]) -> int:
    """Go through tokens while each is allowed; how many were."""
    for done, one in enumerate(tokens):
        if one not in allowed(constraint.mask()):
            return done
        constraint.advance(one)
        assert constraint.error is None
    return len(tokens)


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether a text, byte by byte, is allowed and may end there."""
    data = text.encode()
    return walk(constraint, list(data)) == len(data) and EOS in allowed(constraint.mask())


def gbnf(compiler: GrammarCompiler, text: str) -> Constraint:
    """A constraint from GBNF."""
    return compiler.compile(Grammar(kind="gbnf", text=text)).constraint()
