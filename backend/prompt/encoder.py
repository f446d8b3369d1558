"""Text to token ids, without holding the interpreter lock for long."""

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.core.errors import InvalidRequest
from backend.core.panics import tokenizers_code
from backend.prompt.token_limit import check_token_limit

_LOOK_AHEAD = 4  # characters: some, such as a dropped space, belong to no token
_SLICE = 1 << 14  # ids: one call for a million of them would hold the lock for 0.1 s
_MOST_ID = int(np.iinfo(np.int32).max)
_PROBE = "A probe:\n  na\u00efve \u2603 <n> 12345"


class Encoded:
    """Token ids of a text, and where a character of it lies among them.

    Attributes:
        ids: int32, [n].
    """

    def __init__(self, ids: NDArray[np.int32], locate: Callable[[int], int | None]) -> None:
        self.ids = ids
        self._locate = locate

    def token_at(self, character: int) -> int | None:
        """Index of the token that holds the character; None past the end."""
        for position in range(character, character + _LOOK_AHEAD):
            token = self._locate(position)
            if token is not None:
                return token
        return None


class TextEncoder:
    """One model's tokenizer, for any thread.

    Args:
        tokenizer: Of transformers, without mlx-lm's wrapper.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = _plain_backend(tokenizer)
        # Python's tokenizers change themselves as they encode ("Already borrowed"), and the engine thread decodes
        # with this one meanwhile: so a copy, and one thread at a time.
        self._tokenizer = tokenizer if self._backend is not None else copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self._bos_text: str = getattr(tokenizer, "bos_token", None) or ""
        self._bos_id: int | None = getattr(tokenizer, "bos_token_id", None)

    def encode(self, text: str, *, add_special_tokens: bool, most: int | None = None) -> Encoded:
        """Encode; a BOS that the text already spells out is not added once more.

        Args:
            most: A text that surely has more tokens is not encoded whole; one with a few more may be.

        Raises:
            InvalidRequest: The text is not valid Unicode (a lone surrogate), is too long, or becomes a token that no
                vocabulary has.
        """
        try:
            with tokenizers_code():
                if most is not None:
                    check_token_limit(text, most, lambda piece: len(self._encode(piece, False).ids))
                encoded = self._encode(text, add_special_tokens)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest("Prompt", "is not valid Unicode text") from error
        twice = [self._bos_id, self._bos_id]
        if add_special_tokens and self._bos_text and text.startswith(self._bos_text):
            if encoded.ids[:2].tolist() == twice:
                return Encoded(encoded.ids[1:], lambda _: None)
        return encoded

    def _encode(self, text: str, add_special_tokens: bool) -> Encoded:
        if self._backend is None:
            return self._encode_slowly(text, add_special_tokens)
        # A batch of one: `encode` holds the interpreter lock for as long as it works, `encode_batch` does not.
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        return Encoded(_token_ids(encoding.ids), encoding.char_to_token)

    def _encode_slowly(self, text: str, add_special_tokens: bool) -> Encoded:
        def encode(part: str) -> NDArray[np.int32]:
            with self._lock:
                ids = self._tokenizer.encode(part, add_special_tokens=add_special_tokens)
            return _token_ids(ids)

        ids = encode(text)

        def locate(character: int) -> int | None:
            if character >= len(text):
                return None
            prefix = encode(text[:character])
            common = min(len(prefix), len(ids))
            differs = np.flatnonzero(prefix[:common] != ids[:common])
            return int(differs[0]) if differs.size else common

        return Encoded(ids, locate)


def _token_ids(ids: Sequence[int]) -> NDArray[np.int32]:
    """Checked before the cast: a tokenizer in Python may say anything, and -1 would read a table from its end."""
    out = np.empty(len(ids), np.int32)
    for start in range(0, len(ids), _SLICE):
        part = ids[start : start + _SLICE]
        for extreme in (min(part), max(part)):
            if not 0 <= extreme <= _MOST_ID:
                raise InvalidRequest("Prompt", f"has token {extreme}, which no vocabulary has")
        out[start : start + len(part)] = part
    return out


def _plain_backend(tokenizer: Any) -> Any:
    """The Rust tokenizer, if it alone gives what `tokenizer.encode` gives; else None."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "encode_batch"):
        return None
    # A tokenizer file may carry these; transformers resets them in each call, here nobody would.
    backend.no_truncation()
    backend.no_padding()
    expected = tokenizer.encode(_PROBE, add_special_tokens=True)
    return backend if backend.encode_batch([_PROBE])[0].ids == list(expected) else None
