"""How many tool calls an answer has: one or more where they are required, one where that is asked for."""

import json
from typing import Any

import grpc
import jsonschema
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict, stream
from tests.e2e.chatting import Turn, ask
from tests.e2e.worker import TINY_CHAT, Worker
from tests.tiers import slow

SHORT = {"type": "string", "maxLength": 6}
SCHEMAS: dict[str, dict[str, Any]] = {
    name: {
        "type": "object",
        "properties": {"a": SHORT},
        "required": ["a"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    for name in ("f", "g")
}
TOOLS = json.dumps([{"type": "function", "function": {"name": n, "parameters": p}} for n, p in SCHEMAS.items()])
ALLOWED = json.dumps({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]})
TWO = r"""start: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}</tool_call>" again
again: "\n<tool_call>{\"name\": \"g\", \"arguments\": {\"a\": \"y\"}}</tool_call>" """


def asking(choice: str, tokens: int = 160, **fields: Any) -> pb.PredictOptions:
    return chat("Call them.", tokens, **{"Tools": TOOLS, "ToolChoice": choice, **fields})


@pytest.mark.parametrize("choice", ["required", slow("any"), ALLOWED])
def test_where_calls_are_required_the_model_may_write_several(worker: Worker, choice: str) -> None:
    """One that never wants to end goes on until its tokens are used up; the calls that are whole by then are calls."""
    request = asking(choice, IgnoreEOS=True)
    turn = Turn.of(predict(worker.stub, request))
    assert (turn.text, turn.answer.reason) == ("", "length")
    assert len(turn.calls) > 1
    for call in turn.calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    assert {call.name for call in turn.calls} <= ({"g"} if choice == ALLOWED else {"f", "g"})
    parts = Turn.of(stream(worker.stub, request))
    assert [(call.name, call.arguments) for call in parts.calls][: len(turn.calls)] == [
        (call.name, call.arguments) for call in turn.calls
    ]
    assert (parts.text, parts.answer.reason) == ("", "length")


@pytest.mark.parametrize(
    ("choice", "metadata"), [("f", {}), ("required", {"parallel_tool_calls": "false"})], ids=["named", "not parallel"]
)
def test_a_named_tool_is_called_once_and_so_is_any_where_only_one_call_may_come(
    worker: Worker, choice: str, metadata: dict[str, str]
) -> None:
    for seed in range(4):
        turn = ask(worker, asking(choice, Metadata=metadata, Temperature=2.0, Seed=seed))
        assert (turn.text, turn.answer.reason) == ("", "tool_calls")
        assert len(turn.calls) == 1


def test_an_answer_that_may_have_one_call_ends_with_it(worker: Worker) -> None:
    both = ask(worker, asking("auto", Metadata={"lark": TWO}))
    assert [call.name for call in both.calls] == ["f", "g"]
    one = ask(worker, asking("auto", Metadata={"lark": TWO, "parallel_tool_calls": "false"}))
    assert [(call.name, json.loads(call.arguments)) for call in one.calls] == [("f", {"a": "x"})]
    assert (one.text, one.answer.reason) == ("", "tool_calls")


def test_whether_calls_are_parallel_is_true_or_false(worker: Worker) -> None:
    answer = predict(worker.stub, asking("auto", Metadata={"parallel_tool_calls": "1"}))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "Metadata[parallel_tool_calls]: must be true or false")


UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
RELATED = {**UNIQUE, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
PARSERS = ("qwen3_coder", slow("json_tools"), slow("glm47"))


def text_of(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}


def beside(schema: dict[str, Any], *, strict: bool = False) -> str:
    """A tool with this schema behind a strict one that every format can be held to."""
    held = {"name": "f", "strict": True, "parameters": SCHEMAS["f"]}
    other = {"name": "odd", "strict": strict, "parameters": schema}
    return json.dumps([{"type": "function", "function": each} for each in (held, other)])


@pytest.fixture(scope="module", params=PARSERS)
def parser(request: pytest.FixtureRequest, another_worker: Worker) -> tuple[Worker, str]:
    another_worker.must_load(TINY_CHAT, f"tool_parser:{request.param}")
    return another_worker, request.param


def test_a_tool_that_is_not_strict_refuses_nothing_where_calls_are_the_models_own_accord(
    parser: tuple[Worker, str],
) -> None:
    worker, _ = parser
    for schema in (UNIQUE, RELATED, text_of("a("), text_of("(?=a)b")):
        answer = predict(worker.stub, asking("auto", 8, Tools=beside(schema)))
        assert answer.code == grpc.StatusCode.OK, (schema, answer.details)


def test_what_is_wrong_with_a_tools_schema_is_told_with_its_function_and_the_keyword(
    parser: tuple[Worker, str],
) -> None:
    worker, name = parser
    cases = [
        (UNIQUE, "'uniqueItems'", ("required", "auto", "odd")),
        (RELATED, "'uniqueItems'" if name == "json_tools" else "'anyOf'", ("required", "auto", "odd")),
        (text_of("a("), "'pattern'", ("required", "auto", "odd")),
    ]
    for schema, keyword, choice in [(schema, word, choice) for schema, word, choices in cases for choice in choices]:
        answer = predict(worker.stub, asking(choice, 8, Tools=beside(schema, strict=True)))
        answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "Tools: function 'odd': ")
        assert keyword in answer.details, (choice, schema, answer.details)
        assert "line" not in answer.details and "Grammar" not in answer.details
    if name == "glm47":  # line breaks at the edges of a value are its tags' there, which shows where a value begins
        answer = predict(worker.stub, asking("odd", 80, Tools=beside(text_of("^\\na\\n$"))))
        assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
        assert answer.details.startswith("Tools: ")
