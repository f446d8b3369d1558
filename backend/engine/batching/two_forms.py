"""The prompt cache of rows that hold numbers at first and codes from a length on: each form under a key of its own."""

from collections.abc import Hashable, Sequence
from typing import Any

from backend.engine.quantized.conversion import holds_codes
from mlx_cache import PromptCache
from mlx_cache.results import Fetched, Inserted
from mlx_cache.tree import Tokens


class TwoForms(PromptCache):
    """A cold run holds numbers below `start` tokens, and codes for all of them from there on.

    So what was stored as codes serves lengths of `start` and more, what was stored as numbers those below it, and
    neither is ever found for the other.
    """

    def __init__(self, *limits: Any, start: int, **options: Any) -> None:
        super().__init__(*limits, **options)
        self._start = start

    def fetch(self, model_key: Hashable, tokens: Sequence[int] | Tokens, **options: Any) -> Fetched:
        """See PromptCache."""
        return super().fetch(*self._place(model_key, tokens), **options)

    def match_length(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """See PromptCache."""
        return super().match_length(*self._place(model_key, tokens))

    def insert(
        self, model_key: Hashable, tokens: Sequence[int] | Tokens, prompt_cache: Sequence[Any], **options: Any
    ) -> Inserted:
        """See PromptCache. The form is that of the caches."""
        return super().insert((model_key, holds_codes(prompt_cache)), tokens, prompt_cache, **options)

    def pin(self, name: str, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """See PromptCache. A prefix of `start` tokens or more is one of codes."""
        return super().pin(name, (model_key, len(tokens) >= self._start), tokens)

    def clear(self, model_key: Hashable | None = None) -> None:
        """See PromptCache."""
        for key in [None] if model_key is None else [(model_key, False), (model_key, True)]:
            super().clear(key)

    def forget(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """See PromptCache."""
        for is_codes in (False, True):
            super().forget((model_key, is_codes), tokens, keep=keep)

    def _place(self, key: Hashable, tokens: Sequence[int] | Tokens) -> tuple[Hashable, Sequence[int] | Tokens]:
        """Where the longest usable prefix of `tokens` is, and which of them may be looked for there."""
        if super().match_length((key, True), tokens) >= self._start:
            return (key, True), tokens
        # At most all but the last are ever found.
        return (key, False), tokens[: self._start]
