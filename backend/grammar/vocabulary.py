"""A model's tokens as grammars see them: bytes, control tokens, ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TOKEN_BYTES = 1000
# The text of an end that no token of the model stands for; only errors could show it.
_NO_TOKEN = b"<|end of answer|>"


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

    A model without a token that ends an answer gets one behind its last: grammars need an end to allow, no mask that
    is cut to the logits ever lets it be drawn, and the engine ends the answer where nothing else may follow.

    Args:
        label_of: A token's bytes, those of control tokens too; empty for ids the tokenizer does not know.
        size: Width of the model's logits, often more than the tokenizer has.
    """
    added = tokenizer.added_tokens_decoder
    special = {token.content: int(i) for i, token in added.items() if token.special and int(i) < size}
    tokens = [label_of(i) for i in range(size)]
    # llguidance panics on a trie that deep; a token that long (a run of spaces, say) is spelt by shorter ones.
    tokens = [token if len(token) <= MAX_TOKEN_BYTES else b"" for token in tokens]
    ends = tuple(i for i in eos_ids if i < size)
    return Vocabulary(tokens, special, ends) if ends else Vocabulary([*tokens, _NO_TOKEN], special, (size,))
