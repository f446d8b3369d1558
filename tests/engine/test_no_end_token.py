"""A model without a token that ends an answer: it loads, and a grammar ends where nothing else may follow."""

import json
from pathlib import Path

from backend.core.events import FinishReason
from backend.core.request import Grammar
from backend.engine.handle import EngineHandle
from tests.engine.harness import model_config, read, request, with_engine
from tests.models import write_model


def endless(folder: Path) -> Path:
    path = write_model(folder / "qwen3", "qwen3")
    for name, entry in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        content = json.loads((path / name).read_text())
        del content[entry]
        (path / name).write_text(json.dumps(content))
    return path


def test_a_model_without_an_end_token_answers_to_its_limit_and_grammars_end(tmp_path: Path) -> None:
    async def body(handle: EngineHandle) -> None:
        free = await read(handle, request("hello", n=12))
        assert free.end is not None and free.end.reason is FinishReason.LENGTH
        held = await read(handle, request("hello", n=12, grammar=Grammar(kind="regex", text="yes|no")))
        assert held.text in ("yes", "no")
        assert held.end is not None and held.end.reason is FinishReason.STOP
        # Where more may follow, only the limit ends it.
        more = await read(handle, request("hello", n=12, grammar=Grammar(kind="regex", text="[a-z]+")))
        assert more.end is not None and more.end.reason is FinishReason.LENGTH
        assert more.text.isalpha()

    with_engine(model_config(endless(tmp_path)), body)
