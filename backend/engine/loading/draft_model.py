"""The load of a second model that guesses tokens for the first. No MLX here."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed


def config_of_draft(config: ModelConfig) -> ModelConfig:
    """The load of the draft model: its own files as they are, whatever is asked of the model it guesses for."""
    return replace(
        config,
        candidates=config.draft_candidates,
        draft_candidates=(),
        revision="",
        context=None,
        max_kv_size=None,
        adapter="",
        tokenizer="",
        dtype="",
        chat_template="",
        chat_template_file="",
        engine=replace(config.engine, kv_bits=None, drafters=frozenset()),
        cache=replace(config.cache, kv_bits=None),
    )


@contextmanager
def of_draft_model() -> Generator[None]:
    """Have what fails in here say that it is the draft model's."""
    try:
        yield
    except ModelLoadFailed as error:
        message = error.message
    else:
        return
    # As in `guarded`: a chained traceback would keep half-loaded weights alive.
    raise ModelLoadFailed(f"DraftModel: {message}")


def check_same_tokens(directory: Path, wanted: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Refuse a tokenizer that gives any piece of text, or any special token, another id than the model's does.

    Args:
        directory: The draft model's.
        wanted, found: Ids by piece, special tokens among them: the model's and the draft model's.

    Raises:
        ModelLoadFailed: With the first piece, by its id, that differs.
    """
    if wanted == found:
        return
    differing = {piece for piece, _ in wanted.items() ^ found.items()}
    first = min(differing, key=lambda piece: (wanted.get(piece, found.get(piece, 0)), piece))
    ours, theirs = (_in_words(ids.get(first)) for ids in (wanted, found))
    raise ModelLoadFailed(
        f"{directory}: has another tokenizer than the model: {first[:40]!r} is {theirs} there and {ours} in the "
        f"model's; {len(differing)} of {len(wanted.keys() | found.keys())} pieces differ"
    )


def _in_words(token: int | None) -> str:
    return "no token" if token is None else f"token {token}"
