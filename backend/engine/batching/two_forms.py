"""The prompt cache of rows that hold numbers at first and codes from a length on: each form under a key of its own."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from backend.engine.quantized.conversion import holds_codes, to_codes
from backend.engine.quantized.kv_format import KVFormat
from mlx_cache import PromptCache
from mlx_cache.results import Fetched, Inserted
from mlx_cache.tree import Tokens


class TwoForms(PromptCache):
    """A cold run holds numbers below `start` tokens, and codes for all of them from there on.

    So what was stored as codes serves lengths of `start` and more, what was stored as numbers those below it, and
    neither is ever found for the other.

    Args:
        kv: Of the codes, and where they begin.
        disk_namespace: Of a model key; the codes' has a mark.
    """

    def __init__(
        self, *limits: Any, kv: KVFormat, disk_namespace: Callable[[Hashable], str | None], **options: Any
    ) -> None:
        super().__init__(*limits, disk_namespace=partial(_of_form, disk_namespace), **options)
        self._kv = kv
        self._start = kv.start

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
        return super().pin(name, self._whole(model_key, tokens), tokens)

    def clear(self, model_key: Hashable | None = None) -> None:
        """See PromptCache."""
        for key in [None] if model_key is None else self._forms(model_key):
            super().clear(key)

    def forget(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """See PromptCache."""
        for is_codes in (False, True):
            super().forget((model_key, is_codes), tokens, keep=keep)

    # On a disk

    def match_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """See PromptCache."""
        return self._longest(super().match_disk, model_key, tokens)

    def match_disk_at_most(self, model_key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """See PromptCache."""
        return self._longest(super().match_disk_at_most, model_key, tokens)

    def fetch_from_disk(
        self,
        model_key: Hashable,
        tokens: Sequence[int] | Tokens,
        template: Sequence[Any],
        *args: Any,
        least: int = 1,
        **options: Any,
    ) -> Fetched:
        """See PromptCache. The template is of numbers."""
        if super().match_disk_at_most((model_key, True), tokens) >= self._start:
            codes, least = to_codes(template, self._kv), max(least, self._start)
            return super().fetch_from_disk((model_key, True), tokens, codes, *args, least=least, **options)
        numbers = tokens[: self._start]
        return super().fetch_from_disk((model_key, False), numbers, template, *args, least=least, **options)

    def hold_on_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, hold: bool) -> None:
        """See PromptCache. As `pin`."""
        super().hold_on_disk(self._whole(model_key, tokens), tokens, hold=hold)

    def forget_on_disk(self, model_key: Hashable, tokens: Sequence[int] | Tokens, *, keep: int = 0) -> None:
        """See PromptCache."""
        for is_codes in (False, True):
            super().forget_on_disk((model_key, is_codes), tokens, keep=keep)

    def clear_disk(self, model_key: Hashable | None = None) -> None:
        """See PromptCache."""
        for key in [None] if model_key is None else self._forms(model_key):
            super().clear_disk(key)

    def clear_disk_group(self, model_key: Hashable) -> None:
        """See PromptCache. Both forms are of one group."""
        super().clear_disk_group((model_key, False))

    # Places

    def _forms(self, model_key: Hashable) -> list[Hashable]:
        return [(model_key, False), (model_key, True)]

    def _longest(
        self,
        match: Callable[[Hashable, Sequence[int] | Tokens], int],
        key: Hashable,
        tokens: Sequence[int] | Tokens,
    ) -> int:
        codes = match((key, True), tokens)
        return codes if codes >= self._start else match((key, False), tokens[: self._start])

    def _whole(self, key: Hashable, tokens: Sequence[int] | Tokens) -> Hashable:
        """Where all of `tokens` is kept."""
        return (key, len(tokens) >= self._start)

    def _place(self, key: Hashable, tokens: Sequence[int] | Tokens) -> tuple[Hashable, Sequence[int] | Tokens]:
        """Where the longest usable prefix of `tokens` is, and which of them may be looked for there."""
        if super().match_length((key, True), tokens) >= self._start:
            return (key, True), tokens
        # At most all but the last are ever found.
        return (key, False), tokens[: self._start]


def _of_form(namespace: Callable[[Hashable], str | None], key: Any) -> str | None:
    model_key, is_codes = key
    name = namespace(model_key)
    return f"{name}\ncodes" if name is not None and is_codes else name
