"""The rules of docs/formats.md for what is half a call, or no call, or never closed: whole answers and streams."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from backend.output.formats import formats
from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict, stream
from tests.e2e.chatting import CAPITAL, THINKING, TOOLS, WEATHER_QUESTION, Turn, ask, runnable
from tests.e2e.worker import TINY_CHAT, Worker
from tests.tiers import slow

ARGUMENTS = '{"location": "Paris \U0001f600", "unit": "C"}'
TOLD = "So. "


@dataclass(frozen=True)
class Written:
    """A format, and a call of get_weather in it.

    Attributes:
        call: With `ARGUMENTS`.
        halves: Where it may stop, and what a stream has of its arguments then; None where it has text.
        broken: The call without its own end, which models forget.
    """

    name: str
    call: str
    halves: tuple[tuple[str, str | None], ...]
    broken: str


_JSON = '<tool_call>\n{"name": "get_weather", "arguments": '
_TAGS = "<tool_call>\n<function=get_weather>\n"
_GEMMA = '<|tool_call>call:get_weather{location:<|"|>Paris'
WRITTEN = (
    Written(
        "json_tools",
        f"{_JSON}{ARGUMENTS}}}\n</tool_call>",
        (
            (_JSON.removesuffix('uments": '), None),
            (_JSON + '{"location": "Par', '{"location": "Par'),
            (_JSON + ARGUMENTS, ARGUMENTS[:-1]),
            ("<tool_call>", None),
        ),
        f"{_JSON}{ARGUMENTS}\n</tool_call>",
    ),
    Written(
        "qwen3_coder",
        f"{_TAGS}<parameter=location>\nParis \U0001f600\n</parameter>\n<parameter=unit>\nC\n</parameter>\n</function>\n"
        "</tool_call>",
        (
            (_TAGS + "<parameter=loc", None),
            (_TAGS + "<parameter=location>\nPar", '{"location": "Par'),
            (_TAGS + "<parameter=unit>\nC\n</parameter>\n</func", '{"unit": "C"'),
            ("<tool_call>", None),
        ),
        f"{_TAGS}<parameter=unit>\nC\n</parameter>\n</tool_call>",
    ),
    Written(
        "gemma4",
        f'{_GEMMA} \U0001f600<|"|>,unit:<|"|>C<|"|>}}<tool_call|>',
        ((_GEMMA, None), (_GEMMA + '<|"|>,un', '{"location": "Paris"'), ("<|tool_call>", None)),
        f'{_GEMMA}<|"|>,unit:<|"|>C<|"|><tool_call|>',
    ),
)


FORMATS = [WRITTEN[0], *(slow(written, name=written.name) for written in WRITTEN[1:])]


@pytest.fixture(scope="module", params=FORMATS, ids=lambda written: written.name)
def written(request: pytest.FixtureRequest, another_worker: Worker) -> Written:
    """The format that `another_worker` reads."""
    another_worker.must_load(TINY_CHAT, f"tool_parser:{request.param.name}")
    assert another_worker.stub.ModelMetadata(pb.ModelOptions()).tool_format.format_type == request.param.name
    return request.param


def saying(text: str, tokens: int = 300, **fields: Any) -> pb.PredictOptions:
    """A chat with tools whose answer is this text, since a grammar leaves nothing else."""
    lark = {"lark": f"start: {json.dumps(text, ensure_ascii=False)}"}
    return chat(WEATHER_QUESTION, tokens, **{"Tools": TOOLS, "Metadata": lark, **fields})


def both(worker: Worker, request: pb.PredictOptions) -> tuple[Turn, Turn]:
    """The whole answer and the stream."""
    return Turn.of(predict(worker.stub, request)), Turn.of(stream(worker.stub, request))


def test_of_half_a_call_at_the_token_limit_no_markup_is_shown(written: Written, another_worker: Worker) -> None:
    answer = saying(TOLD + written.call)
    total = predict(another_worker.stub, answer).last.tokens
    begun = 0
    for tokens in (*range(2, total - 7, 11), *range(total - 7, total)):
        answer.Tokens = tokens
        whole, parts = both(another_worker, answer)
        assert whole.answer.reason == parts.answer.reason == "length"
        for turn in (whole, parts):
            assert TOLD.startswith(turn.content)
            assert not [mark for mark in formats()[written.name].markers if mark in turn.content]
        assert all(call.arguments == ARGUMENTS for call in whole.calls)
        assert runnable(parts.calls) == runnable(whole.calls)
        assert all(call.name == "get_weather" and ARGUMENTS.startswith(call.arguments) for call in parts.calls)
        begun += len(parts.calls) > len(whole.calls)
    assert begun


def test_half_a_call_at_the_end_of_the_models_turn_is_its_text(written: Written, another_worker: Worker) -> None:
    for half, sent in written.halves:
        whole, parts = both(another_worker, saying(TOLD + half))
        assert whole.answer.reason == parts.answer.reason == "stop"
        assert (whole.content, whole.calls) == (TOLD + half, [])
        assert [call.arguments for call in parts.calls] == ([sent] if sent else [])
        assert parts.content.strip() == (TOLD.strip() if sent else TOLD + half)


def test_a_call_whose_end_is_forgotten_can_be_run_by_nobody(written: Written, another_worker: Worker) -> None:
    for before in (TOLD, written.call + "\n"):
        whole, parts = both(another_worker, saying(before + written.broken))
        assert len(whole.calls) == (before != TOLD)
        assert whole.content.endswith(written.broken)
        assert len(parts.calls) == len(whole.calls) + 1
        assert runnable(parts.calls) == runnable(whole.calls)


@pytest.mark.parametrize("fields", [{"ToolChoice": "none"}, {"Tools": ""}])
def test_a_call_that_nobody_asked_for_is_text(written: Written, another_worker: Worker, fields: dict[str, Any]) -> None:
    turn = ask(another_worker, saying(TOLD + written.call, **fields))
    assert (turn.content or turn.message, turn.calls, turn.answer.reason) == (TOLD + written.call, [], "stop")


def test_reasoning_that_is_never_closed_is_reasoning(written: Written, another_worker: Worker) -> None:
    closed = ask(another_worker, chat(CAPITAL, 100, Metadata=THINKING))
    for tokens in (5, 8):
        turn = ask(another_worker, chat(CAPITAL, tokens, Metadata=THINKING))
        assert (turn.text, turn.answer.reason) == ("", "length")
        assert turn.reasoning
        assert closed.reasoning.startswith(turn.reasoning)
