"""Preparers of models whose tokenizers know more than the model does."""

import json
from pathlib import Path

import pytest

from backend.core.request import Conversation, Grammar, Message
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model

THINK = "<think>"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model whose tokenizer got its reasoning marker later than the model its rows."""
    # A multiple of 32: the first token beyond has no bit in a mask of the model's tokens.
    path = write_model(tmp_path / "qwen3", "qwen3", vocab=288)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    marker = next(token for token in tokenizer["added_tokens"] if token["content"] == THINK)
    vocabulary = tokenizer["model"]["vocab"]
    beyond = max(vocabulary.values()) + 1
    tokenizer["added_tokens"].append(marker | {"id": beyond})
    vocabulary["<|unused|>"] = vocabulary.pop(THINK)
    marker["content"] = "<|unused|>"
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def test_a_reasoning_marker_that_the_model_cannot_write_costs_no_constrained_request(path: Path) -> None:
    asked = Conversation(messages=(Message(role="user", content="yes or no"),))

    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, request(asked, n=8, grammar=Grammar(kind="gbnf", text='root ::= "yes" | "no"')))
        assert answer.error is None
        assert answer.text in ("yes", "no")

    with_engine(model_config(path), body)
