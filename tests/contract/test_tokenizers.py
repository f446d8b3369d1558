"""mlx-lm's tokenizer wrapper and the tokenizer inside it, as prompt, output and grammar use them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from transformers import PreTrainedTokenizerFast

from tests.e2e.worker import TINY_CHAT
from tests.models import IM_END, write_tokenizer

TEXTS = ["Hello there!", "", "caf\u00e9 \U0001f600", "<|im_start|>user\nHi<|im_end|>\n", " two  spaces\n\n\ttab"]


@pytest.fixture(scope="module")
def bytes_only(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def trained() -> TokenizerWrapper:
    return load_tokenizer(TINY_CHAT)


@pytest.fixture(params=["bytes_only", "trained"])
def tokenizer(request: pytest.FixtureRequest) -> TokenizerWrapper:
    return request.getfixturevalue(request.param)


def test_the_wrapper_is_told_from_what_it_wraps_by_its_type(tokenizer: Any) -> None:
    assert type(tokenizer) is TokenizerWrapper
    assert hasattr(type(tokenizer), "think_start_tokens")
    assert not hasattr(type(tokenizer._tokenizer), "think_start_tokens")
    assert isinstance(tokenizer._tokenizer, PreTrainedTokenizerFast)
    # transformers' tokenizers have a `_tokenizer` too, which is something else.
    assert not isinstance(tokenizer._tokenizer._tokenizer, PreTrainedTokenizerFast)


def test_the_wrapper_reports_markers_and_ends(tokenizer: Any) -> None:
    assert tokenizer.has_thinking
    assert (tokenizer.think_start, tokenizer.think_end) == ("<think>", "</think>")
    assert tokenizer.has_tool_calling
    assert (tokenizer.tool_call_start, tokenizer.tool_call_end) == ("<tool_call>", "</tool_call>")
    assert callable(tokenizer.tool_parser)
    assert tokenizer.eos_token_ids
    assert all(isinstance(token, int) for token in tokenizer.eos_token_ids)


def test_ends_can_be_given(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    assert set(load_tokenizer(tmp_path, eos_token_ids=[3, IM_END]).eos_token_ids) == {3, IM_END}


@pytest.mark.parametrize("special", [False, True])
def test_encode_batch_gives_what_encode_gives(tokenizer: Any, special: bool) -> None:
    """It lets other threads run meanwhile, which `encode` does not."""
    backend = tokenizer._tokenizer.backend_tokenizer
    together = [each.ids for each in backend.encode_batch(TEXTS, add_special_tokens=special)]
    assert together == [backend.encode(text, add_special_tokens=special).ids for text in TEXTS]
    assert together == [tokenizer.encode(text, add_special_tokens=special) for text in TEXTS]


def test_decode_batch_gives_what_decode_gives(tokenizer: Any) -> None:
    """It lets other threads run meanwhile, which `decode` does not."""
    backend = tokenizer._tokenizer.backend_tokenizer
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    together = backend.decode_batch(ids, skip_special_tokens=False)
    assert together == [tokenizer._tokenizer.decode(each, skip_special_tokens=False) for each in ids]


def test_encodings_have_offsets_in_characters(tokenizer: Any) -> None:
    """Boundaries of a prompt are found by them."""
    text = TEXTS[3]
    (encoding,) = tokenizer._tokenizer.backend_tokenizer.encode_batch([text], add_special_tokens=False)
    assert encoding.offsets[0] == (0, len("<|im_start|>"))
    assert all(begin <= end for begin, end in encoding.offsets)
    assert encoding.offsets[-1][1] == len(text)


def test_special_tokens_are_flagged_and_added_ones_need_not_be(tokenizer: Any) -> None:
    added = {token.content: token.special for token in tokenizer._tokenizer.added_tokens_decoder.values()}
    assert added["<|im_end|>"]
    assert added["<tool_call>"] is False
    assert set(added) <= set(tokenizer.get_vocab())


def test_a_template_renders_to_text_and_takes_any_argument(tokenizer: Any) -> None:
    render: Callable[..., str] = tokenizer._tokenizer.apply_chat_template
    messages = [{"role": "user", "content": "Hi"}]
    text = render(messages, tokenize=False, add_generation_prompt=True, whatever={"a": [1]})
    assert isinstance(text, str)
    assert "Hi" in text
    assert text != render(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=text.count("</think>") > 0
    )
