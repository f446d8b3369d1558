"""Models and tokenizers that do not speak of the same tokens."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx import nn
from mlx_lm.models.prism_hadamard_qwen35 import HadamardQuantizedEmbedding
from mlx_lm.utils import _get_classes

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.vocabulary import check_vocabulary, embedding_rows
from tests.architectures import catalogue

ROWS = 300


class Small(nn.Module):
    """A model of one table."""

    def __init__(self, name: str, table: nn.Module) -> None:
        super().__init__()
        setattr(self, name, table)


def files(tokens: int = ROWS) -> Any:
    tokenizer = SimpleNamespace(vocab_size=tokens, get_vocab=lambda: dict.fromkeys(range(tokens)))
    return SimpleNamespace(directory=Path("model"), tokenizer_directory=Path("model"), tokenizer=tokenizer)


# Importing a module may end the process where a library of its own is not installed.
@pytest.mark.parametrize("module", [name for name in catalogue.modules() if name != catalogue.ENDS_THE_PROCESS])
def test_the_table_that_token_ids_are_looked_up_in_is_known_of_every_architecture(module: str) -> None:
    config = catalogue.config(module)
    model_class, args_class = _get_classes(config)
    args = args_class.from_dict(config)
    sized = getattr(args, "vocab_size", None) or config["vocab_size"]
    assert embedding_rows(model_class(args)) == sized


@pytest.mark.parametrize(
    "table",
    [
        nn.Embedding(ROWS, 128),
        nn.QuantizedEmbedding(ROWS, 128),
        HadamardQuantizedEmbedding(128, ROWS, 0),
    ],
    ids=lambda table: type(table).__name__,
)
def test_a_table_of_any_class_is_known_by_its_name_and_shape(table: nn.Module) -> None:
    assert embedding_rows(Small("embed_tokens", table)) == ROWS
    with pytest.raises(ModelLoadFailed, match=f"draws from {ROWS + 1} tokens, but its embedding has {ROWS}"):
        check_vocabulary(files(), Small("embed_tokens", table), ROWS + 1)


def test_a_norm_or_a_convolution_of_that_name_is_no_table() -> None:
    assert embedding_rows(Small("embeddings", nn.LayerNorm(8))) is None
    assert embedding_rows(Small("embeddings", nn.Conv1d(8, 8, 3))) is None


def test_a_table_that_is_not_known_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check_vocabulary(files(), Small("embed_tokens", nn.Embedding(ROWS, 8)), ROWS)
    assert "embedding_not_known" not in caplog.text
    check_vocabulary(files(), Small("a_name_of_its_own", nn.Embedding(ROWS, 8)), ROWS)
    assert "embedding_not_known" in caplog.text
