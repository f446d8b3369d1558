"""Made-up texts, and rows that draw them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from backend.engine.speculation.row_drafts import RowDrafts

Tokens = NDArray[np.int32]
VOCAB = 2000


def noise(n: int, drawn: Generator) -> Tokens:
    return drawn.integers(0, VOCAB, n).astype(np.int32)


def edited(text: Tokens, share: float, drawn: Generator) -> Tokens:
    """A copy of which this share of the tokens is left out, replaced or preceded by another."""
    out: list[int] = []
    for token in text.tolist():
        what = drawn.random() / share
        if what >= 1 / 3:
            out += [int(drawn.integers(VOCAB))] if what < 1 else []
            out += [token] if what >= 2 / 3 else []
    return np.array(out, np.int32)


@dataclass
class Drawn:
    """What came of a row that drew an answer, each pass looking at up to `most` drafted tokens."""

    passes: int
    drafted: int
    tokens_a_pass: float
    promised_a_pass: float


def draw(row: RowDrafts, answer: Sequence[int] | Tokens, most: int = 8) -> Drawn:
    answer = np.asarray(answer).tolist()
    done = passes = drafted = 0
    promised = 0.0
    while done < len(answer):
        proposal, accepted = row.propose(most), 0
        passes += 1
        if proposal is not None:
            assert 1 <= len(proposal.tokens) == len(proposal.chances) <= most
            assert all(0 < chance <= 1 for chance in proposal.chances)
            assert list(proposal.chances) == sorted(proposal.chances, reverse=True)
            drafted += len(proposal.tokens)
            promised += sum(proposal.chances)
            rest = answer[done:]
            accepted = next(
                (i for i, pair in enumerate(zip(proposal.tokens, rest, strict=False)) if pair[0] != pair[1]),
                min(len(proposal.tokens), len(rest)),
            )
            row.verified(proposal, accepted)
        for token in answer[done : done + accepted + 1]:
            row.told(token)
        done += accepted + 1
    return Drawn(passes, drafted, len(answer) / passes, 1 + promised / passes)
