"""The rules of docs/formats.md for what is half a call, or no call, or never closed: whole answers and streams."""

import json
from typing import Any

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict, stream
from tests.e2e.chatting import CAPITAL, MARKUP, THINKING, TOOLS, WEATHER_QUESTION, Turn, ask
from tests.e2e.worker import Worker

ARGUMENTS = '{"location": "Paris \U0001f600"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
TOLD = "So. "


def saying(text: str, tokens: int = 300, **fields: Any) -> pb.PredictOptions:
    """A chat with tools whose answer is this text, since a grammar leaves nothing else."""
    lark = {"lark": f"start: {json.dumps(text, ensure_ascii=False)}"}
    return chat(WEATHER_QUESTION, tokens, **{"Tools": TOOLS, "Metadata": lark, **fields})


def both(worker: Worker, request: pb.PredictOptions) -> tuple[Turn, Turn]:
    """The whole answer and the stream."""
    return Turn.of(predict(worker.stub, request)), Turn.of(stream(worker.stub, request))


def test_of_half_a_call_at_the_token_limit_no_markup_is_shown(worker: Worker) -> None:
    total = predict(worker.stub, saying(TOLD + CALL)).last.tokens
    begun = 0
    for tokens in range(2, total, 5):
        whole, parts = both(worker, saying(TOLD + CALL, tokens))
        assert whole.answer.reason == parts.answer.reason == "length"
        for turn in (whole, parts):
            assert TOLD.startswith(turn.content)
            assert not [mark for mark in MARKUP if mark in turn.content]
        assert all(call.arguments == ARGUMENTS for call in whole.calls)
        assert all(call.name == "get_weather" and ARGUMENTS.startswith(call.arguments) for call in parts.calls)
        begun += len(parts.calls) > len(whole.calls)
    assert begun > 1


@pytest.mark.parametrize(
    ("half", "sent"),
    [
        ('<tool_call>\n{"name": "get_weather", "argum', None),
        ('<tool_call>\n{"name": "get_weather", "arguments": {"location": "Par', '{"location": "Par'),
        ("<tool_call>", None),
    ],
)
def test_half_a_call_at_the_end_of_the_models_turn_is_its_text(worker: Worker, half: str, sent: str | None) -> None:
    whole, parts = both(worker, saying(TOLD + half))
    assert whole.answer.reason == parts.answer.reason == "stop"
    assert (whole.content, whole.calls) == (TOLD + half, [])
    assert [call.arguments for call in parts.calls] == ([sent] if sent else [])
    assert parts.content.strip() == (TOLD.strip() if sent else TOLD + half)


@pytest.mark.parametrize("fields", [{"ToolChoice": "none"}, {"Tools": ""}])
def test_a_call_that_nobody_asked_for_is_text(worker: Worker, fields: dict[str, Any]) -> None:
    turn = ask(worker, saying(TOLD + CALL, **fields))
    assert (turn.content or turn.message, turn.calls, turn.answer.reason) == (TOLD + CALL, [], "stop")


def test_reasoning_that_is_never_closed_is_reasoning(worker: Worker) -> None:
    closed = ask(worker, chat(CAPITAL, 100, Metadata=THINKING))
    for tokens in (5, 8):
        turn = ask(worker, chat(CAPITAL, tokens, Metadata=THINKING))
        assert (turn.text, turn.answer.reason) == ("", "length")
        assert turn.reasoning
        assert closed.reasoning.startswith(turn.reasoning)
