"""A model's tokens as grammars see them: bytes, control tokens, ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TOKEN_BYTES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """One model's tokens.

    Attributes:
        tokens: Bytes per id, `size` of them; empty for ids that mean nothing.
        special: Control tokens by text. Their ids are never part of text: a grammar that wants one names its id.
            Added tokens that are not flagged special (`<tool_call>` in many models) are bytes like any others.
        eos_ids: Tokens that end the answer; allowed where the grammar is complete.
    """

    tokens: Sequence[bytes]
    special: Mapping[str, int]
    eos_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.eos_ids:
            raise ValueError("a vocabulary needs a token that ends the answer")

    @property
    def size(self) -> int:
        """Ids, and bits of a mask, are in `[0, size)`."""
        return len(self.tokens)


def read_vocabulary(
    tokenizer: Any, *, label_of: Callable[[int], bytes], size: int, eos_ids: Sequence[int]
) -> Vocabulary:
    """The vocabulary of a transformers tokenizer or mlx-lm's wrapper of one. Takes about 1 us a token.

    Args:
        label_of: A token's bytes, those of control tokens too; empty for ids the tokenizer does not know.
        size: Width of the model's logits, often more than the tokenizer has.
    """
    added = tokenizer.added_tokens_decoder
    special = {token.content: int(i) for i, token in added.items() if token.special and int(i) < size}
    tokens = [label_of(i) for i in range(size)]
    # llguidance panics on a trie that deep; a token that long (a run of spaces, say) is spelt by shorter ones.
    tokens = [token if len(token) <= MAX_TOKEN_BYTES else b"" for token in tokens]
    return Vocabulary(tokens, special, tuple(i for i in eos_ids if i < size))
