"""Preparers of models whose tokenizers know more than the model does."""

import asyncio
import json
import time
from pathlib import Path

import psutil
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


@pytest.mark.parametrize(("as_served", "begun"), [(True, 2), (False, 0)])
def test_the_processes_for_templates_and_grammars_begin_early_or_when_they_are_needed(
    path: Path, as_served: bool, begun: int
) -> None:
    def ours() -> set[int]:
        return {child.pid for child in psutil.Process().children()} - earlier

    async def body(handle: EngineHandle) -> None:
        # The compiler starts its process on a thread of its own.
        deadline = time.monotonic() + 60
        while len(ours()) < begun and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len(ours()) == begun
        grammar = Grammar(kind="gbnf", text='root ::= "yes"')
        answer = await read(handle, request(Conversation(messages=(Message(role="user"),)), n=8, grammar=grammar))
        assert answer.text == "yes"
        assert len(ours()) >= 2

    earlier = {child.pid for child in psutil.Process().children()}
    with_engine(model_config(path, as_served=as_served), body)


def test_a_reasoning_marker_that_the_model_cannot_write_costs_no_constrained_request(path: Path) -> None:
    asked = Conversation(messages=(Message(role="user", content="yes or no"),))

    async def body(handle: EngineHandle) -> None:
        answer = await read(handle, request(asked, n=8, grammar=Grammar(kind="gbnf", text='root ::= "yes" | "no"')))
        assert answer.error is None
        assert answer.text in ("yes", "no")

    with_engine(model_config(path), body)
