"""Token ids to text, one token at a time: complete characters only, and never U+FFFD."""

import codecs
from typing import Protocol

REPLACEMENT = "\ufffd"
# A character has at most four bytes; tokens that stay undecodable for longer than this are not becoming one.
_MAX_UNDECODED = 16

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Tokens(Protocol):
    """What a decoder needs of a model's tokens; `TokenTable` has it."""

    def bytes_of(self, token: int) -> bytes: ...

    def text_of(self, token: int) -> str | None: ...

    def is_hidden(self, token: int) -> bool: ...

    def decode(self, tokens: list[int]) -> str: ...


class TokenDecoder(Protocol):
    """The text of one answer, token by token. Engine thread only."""

    def push(self, token: int) -> str:
        """The complete characters that `token` finishes; may be empty."""
        ...

    def finish(self) -> str:
        """What is still held at the end of the answer."""
        ...


class TableDecoder:
    """Decodes by each token's bytes.

    Bytes of an unfinished character are held, bytes that are no UTF-8 are dropped, and so is a U+FFFD that the
    model wrote itself: hosts take it for a decoding error and stop showing text.

    Args:
        strip_leading_space: Drop one space at the very start, as SentencePiece decoders do.
    """

    def __init__(self, table: Tokens, *, strip_leading_space: bool = False) -> None:
        self._table = table
        self._utf8 = _Utf8Decoder("ignore")
        self._partial = False
        self._strip = strip_leading_space

    def push(self, token: int) -> str:
        text = self._table.text_of(token)
        if text is None or self._partial:
            text = self._decode(self._table.bytes_of(token))
        if self._strip and text:
            self._strip = False
            return text[1:] if text[0] == " " else text
        return text

    def finish(self) -> str:
        # An unfinished character is dropped, as invalid bytes are.
        self._utf8.reset()
        self._partial = False
        return ""

    def _decode(self, data: bytes) -> str:
        text = self._utf8.decode(data)
        self._partial = bool(self._utf8.getstate()[0])
        return text.replace(REPLACEMENT, "") if REPLACEMENT in text else text


class WindowDecoder:
    """Decodes by the tokenizer's own `decode`, for decoders whose tokens have no text of their own (WordPiece).

    Each token is decoded together with the few before it and the difference is new text, so the cost of a token
    does not grow with the answer.
    """

    def __init__(self, table: Tokens) -> None:
        self._table = table
        self._context: list[int] = []
        self._new: list[int] = []

    def push(self, token: int) -> str:
        if self._table.is_hidden(token):
            return ""
        self._new.append(token)
        whole = self._table.decode([*self._context, *self._new])
        if whole.endswith(REPLACEMENT) and len(self._new) < _MAX_UNDECODED:
            return ""
        return self._take(whole)

    def finish(self) -> str:
        if not self._new:
            return ""
        return self._take(self._table.decode([*self._context, *self._new]))

    def _take(self, whole: str) -> str:
        before = self._table.decode(self._context) if self._context else ""
        self._context, self._new = self._new, []
        return whole[len(before) :].replace(REPLACEMENT, "")
