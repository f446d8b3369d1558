"""The code of docs/cache.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from tests.models import write_model

PAGE = Path(__file__).parents[2] / "docs" / "cache.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's Python block defines."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "qwen3_next"])
def test_the_pages_example_answers_the_same_with_and_without_the_cache(
    page: dict[str, Any], family: str, tmp_path: Path
) -> None:
    model, tokenizer = mlx_lm.load(str(write_model(tmp_path, family)))[:2]
    store = page["store"]

    def ask(key: str, tokens: list[int], n: int = 8) -> str:
        return "".join(page["answer"](model, tokenizer, key, tokens, max_tokens=n))

    first = tokenizer.encode("What is a cache for? " * 4)
    reply = [response.token for response in mlx_lm.stream_generate(model, tokenizer, first, max_tokens=4)]
    assert ask(family, first, 4)
    follow_up = [*first, *reply, *tokenizer.encode(" And why?")]
    before = store.stats()["tokens_matched"]
    text = ask(family, follow_up)
    # Behind the first answer, where a hybrid's state and a window were stored too.
    assert store.stats()["tokens_matched"] - before == len(first) + len(reply)
    assert text == ask("cold " + family, follow_up)


def test_the_page_names_every_call_and_every_reason() -> None:
    from mlx_cache import PromptCache, Reason

    text = PAGE.read_text()
    for name in vars(PromptCache):
        assert name.startswith("_") or name in text, name
    for reason in Reason:
        assert f"`{reason}`" in text, reason
