"""Conversations in files, and over the wire."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.chat.conversation import Conversation, load, load_tools
from backend.chat.sampling import FIELDS, read
from backend.chat.turn import Answer, request_of
from backend.client.answers import CallPart, Part

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def part(content: str = "", reasoning: str = "", *calls: CallPart) -> Part:
    return Part(content, reasoning, calls, 1, 5)


def test_a_conversation_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    kept = Conversation(
        system="Be brief.",
        messages=[{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        settings={"temperature": 0.5, "ignore_eos": True, "top_k": 3},
        thinking=False,
    )
    kept.save(tmp_path / "c.json")
    assert load(tmp_path / "c.json") == kept


def test_a_plain_array_of_messages_is_one_too(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(json.dumps([{"role": "system", "content": "S"}, {"role": "user", "content": "Q", "extra": 1}]))
    assert load(file) == Conversation(system="S", messages=[{"role": "user", "content": "Q"}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("7", "holds no conversation"),
        ('{"messages": {}}', "holds no conversation"),
        ('[{"role": "cat"}]', "message 0 has no role"),
        ('[{"role": "user", "content": 1}]', "content must be text"),
        ('[{"role": "assistant", "tool_calls": [1]}]', "tool_calls must be calls"),
        ('{"messages": [], "settings": {"top_k": "x"}}', "top_k takes a whole number"),
        ('{"messages": [], "thinking": "yes"}', "holds no conversation"),
        ('{"messages": [], "tools": [{"function": "x"}]}', "holds no conversation"),
    ],
)
def test_what_is_no_conversation_is_refused_in_a_sentence(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "c.json")


def test_tools_are_an_array_of_functions_with_names(tmp_path: Path) -> None:
    for wrong in ("[1]", '[{"function": "x"}]', '[{"function": {"name": 1}}]', "[]"):
        (tmp_path / "t.json").write_text(wrong)
        with pytest.raises(ValueError, match="no JSON array of tools"):
            load_tools(tmp_path / "t.json")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        load_tools(tmp_path / "none.json")


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_reaches_the_request(name: str) -> None:
    text = {"reasoning_effort": "high", "ignore_eos": "on"}.get(name, "3")
    request = request_of(Conversation(settings={name: read(name, text)}))
    assert request != request_of(Conversation())


def test_without_a_seed_each_answer_is_drawn_anew() -> None:
    assert request_of(Conversation()).Metadata["seed"] == "random"
    seeded = request_of(Conversation(settings={"seed": 4}))
    assert seeded.Seed == 4 and "seed" not in seeded.Metadata


@pytest.mark.parametrize(
    ("name", "text"), [("top_k", "1.5"), ("seed", str(1 << 31)), ("top_p", "nan"), ("ignore_eos", "3"), ("none", "1")]
)
def test_a_value_that_the_wire_has_no_place_for_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        read(name, text)


def test_the_request_is_the_conversation() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "reasoning_content": "so", "tool_calls": [CALL]},
        {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "f"},
    ]
    request = request_of(Conversation("S", messages, [{"type": "function"}], {}, True))
    assert [message.role for message in request.Messages] == ["system", "user", "assistant", "tool"]
    assert json.loads(request.Messages[2].tool_calls) == [CALL]
    assert request.Messages[2].reasoning_content == "so" and request.Messages[3].tool_call_id == "c1"
    assert request.Metadata["enable_thinking"] == "true" and json.loads(request.Tools) == [{"type": "function"}]
    assert request.UseTokenizerTemplate


def test_an_answer_is_put_together_from_its_pieces() -> None:
    answer = Answer()
    assert answer.is_empty
    for piece in (
        part(reasoning="so "),
        part(reasoning="it is"),
        part("Hel"),
        part("lo"),
        part("", "", CallPart(0, "a", "f", '{"x"')),
        part("", "", CallPart(1, "b", "g", "{}"), CallPart(0, "", "", ": 1}")),
    ):
        answer.take(piece)
    message = answer.message()
    assert (message["content"], message["reasoning_content"]) == ("Hello", "so it is")
    assert [(call["id"], call["function"]) for call in message["tool_calls"]] == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]
    assert answer.prompt_tokens == 5


def test_calls_are_open_until_each_has_its_result() -> None:
    other = CALL | {"id": "c2"}
    conversation = Conversation(messages=[{"role": "assistant", "content": "", "tool_calls": [CALL, other]}])
    assert conversation.open_calls == [CALL, other]
    conversation.messages.append({"role": "tool", "tool_call_id": "c1", "content": "1"})
    assert conversation.open_calls == [other]
    conversation.messages.append({"role": "user", "content": "never mind"})
    assert conversation.open_calls == []
