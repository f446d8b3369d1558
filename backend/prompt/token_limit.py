"""The check of a long text against a number of tokens, made without encoding all of it at once.

An encoding takes some four hundred bytes a token, so a text that cannot fit must not be encoded whole to say so.
Pieces of it are, until there are too many tokens. A cut changes only what is next to it: the tokens of one word,
the space or the mark that some tokenizers put before a text. So much is taken off for each piece.
"""

from collections.abc import Callable

from backend.core.errors import InvalidRequest

PIECE_CHARACTERS = 1 << 16
CUT_TOKENS = 256  # no word that tokenizers take as one (100 characters in WordPiece) has more
# A shorter text is as cheap to encode whole; a token may have fewer characters than one only in other scripts.
CHARACTERS_A_TOKEN = 2
WHOLE_CHARACTERS = 1 << 20


def check_token_limit(text: str, most: int, count: Callable[[str], int]) -> None:
    """Refuse a text that surely has over `most` tokens; one that has may still pass.

    Args:
        count: Tokens of a piece, without special tokens.

    Raises:
        InvalidRequest: It has.
    """
    if len(text) <= max(PIECE_CHARACTERS, min(CHARACTERS_A_TOKEN * most, WHOLE_CHARACTERS)):
        return
    surely = 0
    for start in range(0, len(text), PIECE_CHARACTERS):
        surely += max(0, count(text[start : start + PIECE_CHARACTERS]) - CUT_TOKENS)
        if surely > most:
            raise too_many_tokens(most)


def too_many_tokens(most: int) -> InvalidRequest:
    """The refusal, where the number itself is not known."""
    return InvalidRequest("Prompt", f"prompt is over {most} tokens, the most that fit")
