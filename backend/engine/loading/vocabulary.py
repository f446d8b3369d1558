"""The check that a tokenizer and a model speak of the same tokens.

An id beyond the embedding's rows reads whatever lies behind them in memory, or ends the process: MLX does not check.
"""

import logging
from typing import Any

from mlx import nn
from mlx.utils import tree_flatten

from backend.core.errors import ModelLoadFailed
from backend.core.logline import logline
from backend.engine.loading.files import ModelFiles

log = logging.getLogger(__name__)

# How mlx-lm's models call the table that token ids are looked up in.
_INPUT_EMBEDDINGS = frozenset(
    {
        "embed",
        "embed_in",
        "embed_tokens",
        "embedding",
        "embeddings",
        "tok_embeddings",
        "token_embeddings",
        "word_embeddings",
        "wte",
    }
)


def embedding_rows(model: Any) -> int | None:
    """Rows of the smallest table that the model may look token ids up in; None where its name is not known."""
    modules: Any = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    named = [module for path, module in modules if path.rpartition(".")[2] in _INPUT_EMBEDDINGS]
    # By its shape: some architectures have tables of a class of their own, as wide as it packs them.
    tables = [module.weight for module in named if getattr(module.get("weight"), "ndim", 0) == 2]
    return min((int(table.shape[0]) for table in tables), default=None)


def check_vocabulary(files: ModelFiles, model: Any, vocab_size: int) -> None:
    """Refuse a model that may draw what it cannot be fed, and a tokenizer whose own tokens it does not have.

    Tokens that were added to a tokenizer and never to the model are usual: they are told in the log, and a prompt
    that contains one is refused.

    Args:
        vocab_size: Width of the logits.

    Raises:
        ModelLoadFailed: Naming the directory.
    """
    rows = embedding_rows(model)
    if rows is None:
        log.info(logline("embedding_not_known", path=files.directory, vocab=vocab_size))
    elif rows < vocab_size:
        raise ModelLoadFailed(f"{files.directory}: draws from {vocab_size} tokens, but its embedding has {rows}")
    base = int(getattr(files.tokenizer, "vocab_size", 0) or 0)
    if base > vocab_size:
        raise ModelLoadFailed(
            f"{files.tokenizer_directory}: the tokenizer has {base} tokens, the model only {vocab_size}"
        )
    beyond = len(files.tokenizer.get_vocab()) - vocab_size
    if beyond > 0:
        log.warning(logline("tokens_beyond_vocabulary", tokens=beyond, vocab=vocab_size))
