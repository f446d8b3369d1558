"""The committed weights of tiny-chat, checked by what they answer."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-chat"
MODEL = EXAMPLE / "model"


def _load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_chat_check", EXAMPLE / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check = _load_check()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from mlx_lm.utils import load_tokenizer

    return load_tokenizer(MODEL)


@pytest.mark.slow
def test_every_answer_of_the_committed_model_holds_what_it_must() -> None:
    wrong = [(o.check.asked, o.answer) for o in check.run_checks(MODEL) if not o.passed]
    assert wrong == []


def test_an_outcome_without_its_expected_text_does_not_pass() -> None:
    asked = check.Check("The capital of France is", ("Paris.",))
    assert check.Outcome(asked, "Paris.", ends=True, stutters=False).passed
    assert not check.Outcome(asked, "Rome.", ends=True, stutters=False).passed
    assert not check.Outcome(asked, "Paris.", ends=False, stutters=False).passed
    assert not check.Outcome(asked, "Paris.", ends=True, stutters=True).passed


def test_mlx_lm_sees_thinking_tools_and_the_end_of_a_turn(tokenizer: Any) -> None:
    assert tokenizer.has_thinking and tokenizer.has_tool_calling
    assert tokenizer.tool_call_start == "<tool_call>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in tokenizer.eos_token_ids


@pytest.mark.parametrize(
    "text",
    [
        "Anna's code: X7K2.",
        "a\n\n b\t{}",
        "gr\u00fc\u00df dich \u4f60\u597d \U0001f600",
    ],
)
def test_any_text_survives_encoding_and_decoding(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def _render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_the_generation_prompt_opens_no_thought_and_an_empty_one_without_thinking(
    tokenizer: Any,
) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert _render(tokenizer, asked, add_generation_prompt=True, enable_thinking=True) == start
    without = _render(tokenizer, asked, add_generation_prompt=True, enable_thinking=False)
    assert without == start + "<think>\n\n</think>\n\n"


def test_thoughts_are_shown_in_the_current_turn_only(tokenizer: Any) -> None:
    answer = {
        "role": "assistant",
        "content": "It is late.",
        "reasoning_content": "Look at the clock.",
    }
    past = [
        {"role": "user", "content": "Late?"},
        answer,
        {"role": "user", "content": "Sure?"},
    ]
    current = [*past, answer]
    assert "Look at the clock." not in _render(tokenizer, past, enable_thinking=True)
    assert _render(tokenizer, current, enable_thinking=True).count("<think>\nLook at the clock.\n</think>\n\n") == 1


@pytest.mark.parametrize("arguments", [{"city": "K\u00f6ln"}, '{"city": "K\u00f6ln"}'])
def test_calls_and_results_are_rendered_as_hermes_json(tokenizer: Any, arguments: Any) -> None:
    call = {
        "type": "function",
        "function": {"name": "get_time", "arguments": arguments},
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "9:30"},
        {"role": "tool", "content": "9:31"},
    ]
    text = _render(tokenizer, messages, tools=[check.CLOCK])
    assert '<tool_call>\n{"name": "get_time", "arguments": {"city": "K\u00f6ln"}}\n</tool_call><|im_end|>' in text
    results = (
        "<|im_start|>user\n<tool_response>\n9:30\n</tool_response>\n<tool_response>\n9:31\n</tool_response><|im_end|>"
    )
    assert results in text
    assert '<tools>\n{"type": "function", "function": {"name": "get_time"' in text


def test_an_unknown_role_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(Exception, match='no role "critic"'):
        _render(tokenizer, [{"role": "critic", "content": "Hm."}])
