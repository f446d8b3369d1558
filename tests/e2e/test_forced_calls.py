"""Required and named calls of models whose calls are not JSON, or who have no form of calls at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict, stream
from tests.e2e.chatting import MARKUP, Turn, ask, runnable
from tests.e2e.worker import TINY_CHAT, Worker
from tests.grammar.schemas import NO_SPACE
from tests.tiers import slow

TURNS = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}{{ tools | tojson }}{{ WAY }}{{ '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{{ message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
WAYS = {
    "": "'Use them.'",
    "qwen3_coder": "'<tool_call>\\n<function=name>\\n</function>\\n</tool_call>'",
    "glm47": "'<tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>'",
    "jamba": "'<tool_calls>[]</tool_calls>'",
}
SHORT = {"type": "string", "maxLength": 8}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": SHORT,
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
CLOCK = {"type": "object", "properties": {"zone": SHORT}, "required": ["zone"], "additionalProperties": False}
SCHEMAS = {"get_weather": PARAMETERS, "get_time": CLOCK}


def tools(schemas: dict[str, Any]) -> str:
    each = [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in schemas.items()]
    return json.dumps(each)


# One that has no format of its own and one of tags; the others go through the parsers' and the grammars' tests.
_QUICK = ("", "qwen3_coder")


@pytest.fixture(
    scope="module",
    params=[name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(WAYS)],
)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, another_worker: Worker) -> Worker:
    """tiny-chat with a template that shows calls in another way, or in none."""
    folder: Path = tmp_path_factory.mktemp("told") / "model"
    shutil.copytree(TINY_CHAT, folder)
    (folder / "chat_template.jinja").write_text(TURNS.replace("WAY", WAYS[request.param]))
    another_worker.must_load(folder)
    markers = another_worker.stub.ModelMetadata(pb.ModelOptions()).tool_format
    assert markers.format_type == request.param
    return another_worker


def asking(tokens: int = 200, **fields: Any) -> pb.PredictOptions:
    return chat("What's the weather like?", tokens, **{"Tools": tools(SCHEMAS), "ToolChoice": "required", **fields})


@pytest.mark.parametrize("choice", ["required", slow("get_weather"), slow("get_time")])
def test_forced_calls_are_read_as_calls_that_fit_their_schemas(told: Worker, choice: str) -> None:
    for temperature in (0.0, 1.0):
        turn = ask(told, asking(160, ToolChoice=choice, Temperature=temperature, Seed=1))
        assert turn.text == ""
        # Where one call is asked for, none comes after it; where calls are required, tiny-chat may not find an end.
        most = 1 if choice != "required" else len(turn.calls) or 1
        if turn.answer.reason == "length" and (temperature or choice == "required"):
            whole = [call for call in turn.calls if (call.name, call.arguments) in runnable(turn.calls)]
            assert choice == "required" or not whole  # tiny-chat may like white space in JSON
        else:
            assert turn.answer.reason == "tool_calls"
            whole = turn.calls
            assert 1 <= len(whole) <= most
        for call in whole:
            assert choice in ("required", call.name)
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


def test_arguments_come_in_pieces_that_add_up_to_the_whole_answers(told: Worker) -> None:
    request = asking(ToolChoice="get_weather", Temperature=1.0, Seed=3)
    deltas = [
        piece
        for reply in stream(told.stub, request).replies
        for delta in reply.chat_deltas
        for piece in delta.tool_calls
    ]
    assert [(piece.index, bool(piece.id), piece.name) for piece in deltas[:2]] == [
        (0, True, "get_weather"),
        (0, False, ""),
    ]
    assert len([piece for piece in deltas if piece.arguments]) >= 3
    (whole,) = Turn.of(predict(told.stub, request)).calls
    assert "".join(piece.arguments for piece in deltas) == whole.arguments


@pytest.mark.exhaustive
def test_a_call_cut_by_the_token_limit_leaves_no_markup(told: Worker) -> None:
    request = asking(ToolChoice="get_weather")
    (call,) = ask(told, request).calls
    total = predict(told.stub, request).last.tokens
    for tokens in range(1, total, 7):
        request.Tokens = tokens
        cut = Turn.of(predict(told.stub, request))
        assert (cut.text, cut.answer.reason) == ("", "length")
        parts = Turn.of(stream(told.stub, request))
        assert (parts.text, parts.answer.reason) == ("", "length")
        assert all(call.arguments.startswith(part.arguments) for part in parts.calls)
        assert runnable(parts.calls) == runnable(cut.calls)
        assert all(whole.arguments == call.arguments for whole in cut.calls)


def test_a_call_that_was_not_asked_for_is_held_to_nothing(told: Worker) -> None:
    turn = ask(told, asking(60, ToolChoice="none"))
    assert not turn.calls
    assert not [mark for mark in MARKUP[:2] if mark in turn.text]


def test_what_a_format_cannot_hold_is_refused_with_its_reason(told: Worker) -> None:
    markers = told.stub.ModelMetadata(pb.ModelOptions()).tool_format
    schema = {**PARAMETERS, "anyOf": [{"required": ["city"]}, {"required": ["days"]}]}
    answer = predict(told.stub, asking(Tools=tools({"get_weather": schema})))
    if markers.format_type in ("", "jamba"):
        assert answer.code == grpc.StatusCode.OK
    else:
        answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "Tools: function 'get_weather': arguments written one by")


def test_arguments_said_by_references_are_forced_and_read_alike(told: Worker) -> None:
    """The root, an argument and a type are all references; a boolean comes, and no text of one."""
    whole = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}, "again": {"$ref": "#/$defs/all~1of it/properties/sure"}},
        "required": ["sure", "again"],
        "additionalProperties": False,
    }
    schema = {"$ref": "#/$defs/all~1of%20it", "$defs": {"all/of it": whole}, "x-guidance": NO_SPACE}
    turn = ask(told, asking(Tools=tools({"f": schema}), ToolChoice="f", Temperature=0.0))
    assert turn.answer.reason == "tool_calls", (turn.text, turn.answer.details)
    (call,) = turn.calls
    jsonschema.validate(json.loads(call.arguments), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({**PARAMETERS, "properties": {"city": {"$ref": "#/$defs/City"}}}, "$ref '#/$defs/City' leads nowhere"),
        ({"type": "array"}, "its parameters are of type array"),
    ],
)
def test_a_schema_that_is_none_of_arguments_is_refused(told: Worker, schema: Any, words: str) -> None:
    answer = predict(told.stub, asking(Tools=tools({"get_weather": schema})))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, f"Tools: function 'get_weather': {words}")
