"""tiny-chat as a host talks to it: reasoning, tool calls, tool results, and where each of them is sent.

Rules are those of `docs/protocol.md`, "Where the text goes"; numbers those of the hosts' eight.
"""

import json
from typing import Any

import grpc
import jsonschema
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict, stream
from tests.e2e.chatting import (
    CAPITAL,
    CLOCK,
    MARKUP,
    NAMED_CLOCK,
    PERSON,
    STRICT_TOOLS,
    THINKING,
    TOOLS,
    WEATHER,
    WEATHER_QUESTION,
    Turn,
    ask,
    history,
    turns,
    weather,
)
from tests.e2e.worker import Worker
from tests.tiers import slow

SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in (WEATHER, CLOCK)}
PARIS = {"location": "Paris, France"}


@pytest.mark.parametrize("metadata", [THINKING, slow({"chat_template_kwargs": '{"enable_thinking": true}'})])
def test_a_thinking_answer_is_reasoning_then_content(worker: Worker, metadata: dict[str, str]) -> None:
    turn = ask(worker, chat(CAPITAL, 100, Metadata=metadata))
    assert "France" in turn.reasoning
    assert turn.content == turn.message == "The capital of France is Paris."
    kinds = [bool(d.reasoning_content) for reply in turn.answer.replies for d in reply.chat_deltas]
    assert kinds == sorted(kinds, reverse=True)
    assert turn.answer.reason == "stop"


@pytest.mark.parametrize(
    "metadata",
    [{}, {"enable_thinking": "false"}, {**THINKING, "chat_template_kwargs": '{"enable_thinking": false}'}],
)
def test_without_thinking_there_is_no_reasoning(worker: Worker, metadata: dict[str, str]) -> None:
    turn = ask(worker, chat(CAPITAL, 100, Metadata=metadata))
    assert turn.reasoning == ""
    assert "Paris" in turn.message


@pytest.mark.parametrize("choice", ['"auto"', slow("auto"), ""])
def test_the_weather_question_becomes_a_tool_call(worker: Worker, choice: str) -> None:
    turn = ask(worker, weather(ToolChoice=choice))
    assert [call.name for call in turn.calls] == ["get_weather"]
    assert "Paris, France" in json.loads(turn.calls[0].arguments).values()
    assert (turn.content, turn.message, turn.answer.reason) == ("", "", "tool_calls")


def test_a_thinking_answer_may_end_in_a_tool_call(worker: Worker) -> None:
    turn = ask(worker, weather(Metadata=THINKING, ToolChoice="required"))
    assert turn.reasoning
    assert json.loads(turn.calls[0].arguments) == PARIS
    assert turn.text == ""


@pytest.mark.parametrize("choice", [slow("required"), '"required"'])
def test_a_required_call_fits_its_tools_schema(worker: Worker, choice: str) -> None:
    turn = ask(worker, weather(ToolChoice=choice))
    assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [("get_weather", PARIS)]


@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 4))])
def test_a_required_call_comes_whatever_is_asked_and_however_it_is_drawn(worker: Worker, seed: int) -> None:
    request = chat("Tell me a joke.", 150, Tools=TOOLS, ToolChoice="required", Temperature=1.0, Seed=seed)
    turn = ask(worker, request)
    if turn.answer.reason == "length":
        assert not turn.calls
        return
    (call,) = turn.calls
    jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("choice", [NAMED_CLOCK, slow("get_time"), slow('"get_time"')])
def test_a_named_function_is_the_one_that_is_called(worker: Worker, choice: str) -> None:
    turn = ask(worker, weather(ToolChoice=choice))
    assert [call.name for call in turn.calls] == ["get_time"]
    jsonschema.validate(json.loads(turn.calls[0].arguments), SCHEMAS["get_time"])


@pytest.mark.parametrize("choice", [slow("none"), '"none"'])
def test_tool_choice_none_parses_no_calls(worker: Worker, choice: str) -> None:
    turn = ask(worker, weather(ToolChoice=choice))
    assert not turn.calls
    assert turn.message == turn.content != ""
    assert turn.answer.reason == "stop"


def test_a_strict_tool_holds_its_calls_to_the_schema_and_leaves_text_free(worker: Worker) -> None:
    loose = ask(worker, weather())
    assert json.loads(loose.calls[0].arguments) != PARIS  # what the model would write: tiny-chat likes other names
    strict = ask(worker, weather(Tools=STRICT_TOOLS))
    assert json.loads(strict.calls[0].arguments) == PARIS
    free = ask(worker, chat("Hello!", 100, Tools=STRICT_TOOLS, ToolChoice="auto"))
    assert (free.calls, free.text) == ([], "Hello! How can I help you?")


@pytest.mark.parametrize("tokens", [100, slow(100_000)])
def test_the_tool_result_is_answered_in_words(worker: Worker, tokens: int) -> None:
    first = ask(worker, weather(ToolChoice="required"))
    request = turns(
        pb.Message(role="user", content=WEATHER_QUESTION),
        pb.Message(role="assistant", tool_calls=history(first.calls)),
        pb.Message(role="tool", name="get_weather", tool_call_id=first.calls[0].id, content="sunny, 21 C"),
        tokens=tokens,
        Tools=TOOLS,
        ToolChoice="auto",
    )
    answer = ask(worker, request)
    assert answer.calls == []
    assert "sunny" in answer.content
    assert answer.answer.reason == "stop"


def test_earlier_reasoning_and_calls_reach_the_template(worker: Worker) -> None:
    question = pb.Message(role="user", content=WEATHER_QUESTION)
    result = pb.Message(role="tool", content="sunny, 21 C")
    call = json.dumps([{"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"a": "b"}'}}])
    lengths = {
        len(worker.stub.TokenizeString(turns(question, said, result)).tokens)
        for said in (
            pb.Message(role="assistant", tool_calls=call),
            pb.Message(role="assistant", tool_calls=call, reasoning_content="They ask about Paris."),
            pb.Message(role="assistant", tool_calls=call, content="Let me look."),
        )
    }
    assert len(lengths) == 3


def test_a_json_answer_under_a_schema(worker: Worker) -> None:
    request = chat("Give me a JSON object with name and age.", 100, Metadata={"json_schema": json.dumps(PERSON)})
    turn = ask(worker, request)
    jsonschema.validate(json.loads(turn.message), PERSON)
    assert turn.answer.reason == "stop"


# Rules 1 to 8


@pytest.mark.parametrize("fields", [{"ToolChoice": "auto"}, slow({"ToolChoice": "required"}), {"Metadata": THINKING}])
def test_rule_1_no_markup_is_shown_anywhere(worker: Worker, fields: dict[str, object]) -> None:
    for request in (weather(**fields), chat(CAPITAL, 100, Metadata=THINKING)):
        turn = ask(worker, request)
        for text in (turn.message, turn.content, turn.reasoning):
            assert not [mark for mark in MARKUP if mark in text]


@pytest.mark.parametrize(
    "request_",
    [
        chat(CAPITAL, 100, Metadata=THINKING),
        chat("Tell me a story.", 60, Temperature=1.0, Seed=5, StopPrompts=["little", "zzz"]),
        weather(Prompt="as Anthropic's endpoint sends it"),
        weather(ToolChoice="none"),
        chat("Hello!", 60, Tools=TOOLS, Metadata={"message": "always"}),
    ],
)
def test_rule_2_each_replys_message_is_its_deltas_content(worker: Worker, request_: pb.PredictOptions) -> None:
    replies = stream(worker.stub, request_).replies
    for reply in replies:
        assert reply.message.decode() == "".join(delta.content for delta in reply.chat_deltas)
        for delta in reply.chat_deltas:
            if delta.reasoning_content or delta.tool_calls:
                assert not reply.message
    assert any(reply.chat_deltas for reply in replies)


@pytest.mark.parametrize(
    "request_", [weather(), slow(chat("Hello!", 60, Tools=TOOLS)), slow(weather(Metadata=THINKING))]
)
def test_rule_3_a_chat_with_tools_leaves_message_empty(worker: Worker, request_: pb.PredictOptions) -> None:
    for answer in (predict(worker.stub, request_), stream(worker.stub, request_)):
        assert all(reply.message == b"" for reply in answer.replies)
        turn = Turn.of(answer)
        assert turn.content or turn.calls


def test_rule_4_the_last_reply_repeats_nothing(worker: Worker) -> None:
    for request in (
        chat(CAPITAL, 100, Metadata=THINKING),
        weather(),
        chat("Hello!", 60, Tools=TOOLS),
        chat(CAPITAL, 60, Logprobs=1),
    ):
        turn = Turn.of(stream(worker.stub, request))
        *before, last = turn.answer.replies
        assert before
        shown = "".join(delta.content + delta.reasoning_content for delta in last.chat_deltas)
        assert not shown or len(shown) < 8  # what was held at most; never all again
        assert not [delta for delta in last.chat_deltas if delta.tool_calls]
        assert last.tokens >= before[-1].tokens
        whole = Turn.of(predict(worker.stub, request))
        assert (whole.text, whole.reasoning) == (turn.text, turn.reasoning)


def test_rule_5_ids_are_unique_and_arguments_are_json(worker: Worker) -> None:
    seen: set[str] = set()
    for choice in ("auto", "required", NAMED_CLOCK):
        for answer in (predict(worker.stub, weather(ToolChoice=choice)), stream(worker.stub, weather())):
            for call in Turn.of(answer).calls:
                assert call.id not in seen
                seen.add(call.id)
                assert isinstance(json.loads(call.arguments), dict)
    assert len(seen) == 6


def test_rule_5_a_tool_without_arguments_is_called_with_an_empty_object(worker: Worker) -> None:
    ping = {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}}
    ping["function"]["parameters"]["additionalProperties"] = False  # type: ignore[index]
    turn = ask(worker, chat("Ping!", 60, Tools=json.dumps([ping]), ToolChoice="ping"))
    assert [(call.name, call.arguments) for call in turn.calls] == [("ping", "{}")]


def call_text(name: str, arguments: str) -> str:
    """A call as tiny-chat writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def saying(text: str, **fields: Any) -> pb.PredictOptions:
    """A chat with tools whose answer is this text, since a grammar leaves nothing else."""
    metadata = {"lark": f"start: {json.dumps(text, ensure_ascii=False)}", **fields.pop("Metadata", {})}
    return chat(WEATHER_QUESTION, 300, **{"Tools": TOOLS, "Metadata": metadata, **fields})


def test_rule_5_several_calls_are_numbered_and_keep_their_text(worker: Worker) -> None:
    arguments = ['{"location": "Z\u00fcrich \U0001f600"}', '{"city": "</tool_call> in a string"}', "{}"]
    calls = [call_text(name, text) for name, text in zip(("get_weather", "get_time", "other"), arguments, strict=True)]
    turn = ask(worker, saying("Let me look. " + "\n".join(calls)))
    assert [(call.name, json.loads(call.arguments)) for call in turn.calls] == [
        ("get_weather", {"location": "Z\u00fcrich \U0001f600"}),
        ("get_time", {"city": "</tool_call> in a string"}),
        ("other", {}),
    ]
    assert len({call.id for call in turn.calls}) == 3
    assert turn.content.strip() == "Let me look."
    assert turn.answer.reason == "tool_calls"


@pytest.mark.parametrize("text", [slow(call_text("get_time", "{oops}")), '<tool_call>\n["get_time"]\n</tool_call>'])
def test_what_is_no_call_is_given_back_as_content(worker: Worker, text: str) -> None:
    turn = ask(worker, saying(f"So: {text} there."))
    assert (turn.calls, turn.content, turn.answer.reason) == ([], f"So: {text} there.", "stop")


def test_json_in_an_answer_with_tools_is_content(worker: Worker) -> None:
    """A host that read it from `message` would cut the answer there and call `Bob`."""
    text = 'Here: {"name": "Bob", "age": 5} and {"name": "get_time", "arguments": {}}'
    turn = ask(worker, saying(text))
    assert (turn.calls, turn.content, turn.message) == ([], text, "")


def test_a_stop_string_within_a_call_ends_the_turn_without_it(worker: Worker) -> None:
    turn = ask(worker, saying("Well. " + call_text("get_time", '{"city": "Oslo"}'), StopPrompts=["Oslo"]))
    assert turn.answer.reason == "stop-string"
    assert turn.calls == []
    assert "Oslo" not in turn.content


@pytest.mark.parametrize("tools", [slow(""), TOOLS])
def test_rule_6_a_turn_of_reasoning_alone_gets_one_space(worker: Worker, tools: str) -> None:
    request = chat(CAPITAL, 100, Metadata=THINKING, StopPrompts=[" France"], Tools=tools)
    turn = ask(worker, request)
    assert turn.answer.reason == "stop-string"
    assert turn.reasoning
    assert turn.content == " "
    assert turn.message == ("" if tools else " ")


@pytest.mark.parametrize("tools", [slow(""), TOOLS])
def test_rule_6_an_empty_turn_gets_one_space_in_a_delta(worker: Worker, tools: str) -> None:
    (end,) = worker.stub.TokenizeString(pb.PredictOptions(Prompt="<|im_end|>")).tokens
    request = chat(CAPITAL, 100, LogitBias=json.dumps({end: 10_000}), Tools=tools)
    turn = ask(worker, request)
    assert (turn.answer.last.tokens, turn.answer.reason) == (0, "stop")
    assert turn.content == " "
    assert turn.message == ("" if tools else " ")


def test_rule_6_a_used_up_budget_needs_no_space(worker: Worker) -> None:
    turn = ask(worker, chat(CAPITAL, 4, Metadata=THINKING))
    assert turn.answer.reason == "length"
    assert turn.answer.last.tokens == 4
    assert turn.reasoning
    assert turn.text == ""


def test_rule_7_a_plain_unary_answer_is_message_alone(worker: Worker) -> None:
    answer = predict(worker.stub, chat(CAPITAL))
    assert "Paris" in answer.text
    assert not answer.last.chat_deltas
    thought = predict(worker.stub, chat(CAPITAL, 100, Metadata=THINKING))
    (delta,) = thought.last.chat_deltas
    assert delta.content == thought.text
    assert delta.reasoning_content


@pytest.mark.parametrize("stop", [slow(" Paris"), "is Paris.", "capital of Spain"])
def test_rule_8_text_held_for_a_stop_string_is_held_in_both_fields(worker: Worker, stop: str) -> None:
    whole = ask(worker, chat(CAPITAL)).text
    replies = stream(worker.stub, chat(CAPITAL, 64, StopPrompts=[stop])).replies
    shown = content = ""
    for reply in replies:
        shown += reply.message.decode()
        content += "".join(delta.content for delta in reply.chat_deltas)
        assert shown == content
        assert stop not in shown
    assert shown == whole.split(stop)[0]


@pytest.mark.parametrize("name", ["get_time", "nonesuch"])
def test_a_named_function_must_be_among_the_tools(worker: Worker, name: str) -> None:
    answer = predict(worker.stub, weather(Tools=json.dumps([WEATHER]), ToolChoice=name))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "ToolChoice")


def test_logprobs_of_a_turn_cover_reasoning_call_and_markup(worker: Worker) -> None:
    turn = ask(worker, weather(Metadata=THINKING, ToolChoice="required", Logprobs=1))
    assert len(turn.answer.logprobs) == turn.answer.last.tokens
    assert "<tool_call>" in [entry["token"] for entry in turn.answer.logprobs]
