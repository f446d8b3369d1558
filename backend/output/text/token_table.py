"""The bytes of a model's tokens: what each adds to the answer's text."""

from collections.abc import Callable, Collection
from typing import Any

from backend.core.panics import tokenizers_code
from backend.output.text.decoding import REPLACEMENT, TableDecoder, TokenDecoder, WindowDecoder
from backend.output.text.token_bytes import Spelling, spelling_of, token_bytes

_LONG = 1 << 12  # tokens: two milliseconds of decoding


class TokenTable:
    """Bytes of every token of one model, worked out when a token is first seen and kept.

    Made once when the model is loaded; afterwards read by any thread (two threads that fill the same place
    write the same value).

    A token flagged special, and every end-of-sequence token, adds nothing to the text, as with
    `skip_special_tokens`; those that the model's output format reads as markers do add theirs. Ids that the
    tokenizer does not know (a padded vocabulary) add nothing.

    Attributes:
        size: Ids in `[0, size)` may have bytes.
    """

    def __init__(
        self,
        size: int,
        token_of: Callable[[int], str | None],
        *,
        spelling: Spelling | None,
        decode: Callable[[list[int]], str] | None = None,
        added: dict[int, str] | None = None,
        hidden: Collection[int] = (),
    ) -> None:
        self.size = size
        self._token_of = token_of
        self._spelling = spelling
        self._decode = decode
        self._added = added or {}
        self._hidden = frozenset(hidden)
        self._bytes: list[bytes | None] = [None] * size
        self._text: list[str | None] = [None] * size

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, markers: Collection[str] | None = None) -> "TokenTable":
        """The table of a transformers tokenizer or mlx-lm's wrapper of one.

        Args:
            markers: Texts that the output format reads; special tokens within them stay visible.
                None asks `OutputFormat.choose` for them.
        """
        if markers is None:
            from backend.output.format import OutputFormat

            markers = OutputFormat.choose(tokenizer).markers
        inner = getattr(tokenizer, "_tokenizer", tokenizer)
        inner = inner if hasattr(inner, "decode") and hasattr(inner, "convert_ids_to_tokens") else tokenizer
        added = {int(i): token for i, token in inner.added_tokens_decoder.items()}
        visible = "\n".join(markers)
        hidden = {i for i, token in added.items() if token.special and token.content not in visible}
        hidden.update(_end_ids(tokenizer))
        backend = getattr(inner, "backend_tokenizer", None)
        spelling = None
        if backend is not None and _decodes_plainly(inner):
            spelling = spelling_of(backend.decoder)
        size = max(len(inner), max(added, default=-1) + 1)
        return cls(
            size,
            backend.id_to_token if backend is not None else inner.convert_ids_to_tokens,
            spelling=spelling,
            decode=_decode_of(inner, backend),
            added={i: token.content for i, token in added.items()},
            hidden=hidden,
        )

    def decoder(self) -> TokenDecoder:
        """A decoder for one answer."""
        if self._spelling is None:
            return WindowDecoder(self)
        return TableDecoder(self, strip_leading_space=self._spelling.strip_leading_space)

    def bytes_of(self, token: int) -> bytes:
        """What `token` adds to the text: empty for control tokens and unknown ids, maybe part of a character."""
        if not 0 <= token < self.size:
            return b""
        data = self._bytes[token]
        if data is None:
            data = self._bytes[token] = b"" if token in self._hidden else self.label_of(token)
        return data

    def text_of(self, token: int) -> str | None:
        """The token's text if it is of complete characters by itself, else None."""
        if not 0 <= token < self.size:
            return ""
        text = self._text[token]
        if text is None:
            try:
                text = self.bytes_of(token).decode()
            except UnicodeDecodeError:
                return None
            text = self._text[token] = text.replace(REPLACEMENT, "")
        return text

    def label_of(self, token: int) -> bytes:
        """The token's bytes even if it is hidden, for lists of alternatives."""
        text = self._token_of(token) if 0 <= token < self.size else None
        if text is None:
            return b""
        if self._spelling is None:
            return self.decode([token]).replace(REPLACEMENT, "").encode(errors="ignore")
        return token_bytes(text, self._spelling, literal=token in self._added)

    def is_hidden(self, token: int) -> bool:
        """Whether `token` adds nothing to the text."""
        return token in self._hidden or not 0 <= token < self.size

    def decode(self, tokens: list[int]) -> str:
        """The tokenizer's own decoding of `tokens`."""
        if self._decode is None:
            return b"".join(map(self.bytes_of, tokens)).decode(errors="replace")
        with tokenizers_code():
            return self._decode(tokens)


def _decode_of(tokenizer: Any, backend: Any) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    if backend is None or not _decodes_plainly(tokenizer) or tokenizer.clean_up_tokenization_spaces:
        return decode

    def decode_long(ids: list[int]) -> str:
        if len(ids) <= _LONG:
            return decode(ids)
        # A batch of one: `decode` holds the interpreter lock for as long as it works, `decode_batch` does not.
        return backend.decode_batch([ids], skip_special_tokens=False)[0]

    return decode_long


def _decodes_plainly(tokenizer: Any) -> bool:
    """Whether `decode` is the library's own: a subclass that overrides it rewrites the text (NewlineTokenizer)."""
    for cls in type(tokenizer).__mro__:
        if "decode" in vars(cls) or "_decode" in vars(cls):
            return cls.__module__.startswith("transformers.tokenization_")
    return True


def _end_ids(tokenizer: Any) -> set[int]:
    ids: set[int] = set()
    # mlx-lm's wrapper has a set of ids, transformers an id.
    for name in ("eos_token_id", "eos_token_ids"):
        value = getattr(tokenizer, name, None)
        ids.update([value] if isinstance(value, int) else value or ())
    return ids
