"""Chat templates that share one render process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backend.prompt.chat_template import ChatTemplate, TemplateSettings
from backend.prompt.renderer import ProcessRenderer
from tests.prompt import templates


@pytest.fixture(scope="module")
def renderer() -> Iterator[ProcessRenderer]:
    renderer = ProcessRenderer()
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def chat_template(renderer: ProcessRenderer) -> Callable[..., ChatTemplate]:
    """A chat template that is rendered by the process of all."""

    def make(source: str = "", **settings: Any) -> ChatTemplate:
        tokens = dict(templates.small_tokenizer().special_tokens_map)
        given = {"sources": {"default": source}, "special_tokens": tokens, "variables": {}}
        return ChatTemplate(TemplateSettings(**{**given, **settings}), renderer)

    return make
