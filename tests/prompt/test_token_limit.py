"""Texts that are surely too long, told from pieces."""

import pytest

from backend.core.errors import InvalidRequest
from backend.prompt.encoder import TextEncoder
from backend.prompt.token_limit import CUT_TOKENS, PIECE_CHARACTERS, check_token_limit
from tests.prompt import templates


class Counted:
    """Counts a token a character, and what it was given."""

    def __init__(self, per_character: float = 1.0) -> None:
        self.characters = 0
        self._per_character = per_character

    def __call__(self, piece: str) -> int:
        self.characters += len(piece)
        return int(len(piece) * self._per_character)


def test_a_short_text_is_not_counted_at_all() -> None:
    count = Counted()
    check_token_limit("a" * PIECE_CHARACTERS, 1, count)
    check_token_limit("a" * 400_000, 200_000, count)
    assert not count.characters


def test_counting_ends_as_soon_as_it_is_sure() -> None:
    count = Counted()
    with pytest.raises(InvalidRequest, match="over 100000 tokens"):
        check_token_limit("a" * (100 * PIECE_CHARACTERS), 100_000, count)
    assert count.characters == 2 * PIECE_CHARACTERS


def test_a_long_text_of_few_tokens_passes() -> None:
    """White space that a normaliser drops, or one unknown word that is one token."""
    count = Counted(CUT_TOKENS / PIECE_CHARACTERS)
    check_token_limit("a" * (100 * PIECE_CHARACTERS), 0, count)
    assert count.characters == 100 * PIECE_CHARACTERS


@pytest.mark.slow
def test_what_fits_is_never_refused() -> None:
    encoder = TextEncoder(templates.small_tokenizer())
    for text in ("hello there, a small world " * 12_000, "a" * 300_000, " " * 300_000, "\u2603" * 100_000):
        n = len(encoder.encode(text, add_special_tokens=False).ids)
        assert len(encoder.encode(text, add_special_tokens=False, most=n).ids) == n
        with pytest.raises(InvalidRequest, match="over"):
            encoder.encode(text, add_special_tokens=False, most=n // 8)
