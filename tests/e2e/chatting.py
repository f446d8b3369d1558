"""Chats with tiny-chat: what is asked, and what a host makes of the replies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, stream
from tests.e2e.worker import Worker
from tests.grammar.json_prefix import is_json

CAPITAL = "What is the capital of France?"
WEATHER_QUESTION = "What's the weather like in Paris, France?"
THINKING = {"enable_thinking": "true"}
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>")


def tool(name: str, argument: str, *, strict: bool | None = None) -> dict[str, Any]:
    """An OpenAI tool with one required string."""
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"}},
        "required": [argument],
        "additionalProperties": False,
    }
    function: dict[str, Any] = {"name": name, "description": f"Call {name}", "parameters": parameters}
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


WEATHER, CLOCK = tool("get_weather", "location"), tool("get_time", "city")
TOOLS = json.dumps([WEATHER, CLOCK])
STRICT_TOOLS = json.dumps([tool("get_weather", "location", strict=True), CLOCK])
NAMED_CLOCK = json.dumps({"type": "function", "function": {"name": "get_time"}})
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def weather(**fields: Any) -> pb.PredictOptions:
    """The question that tiny-chat answers with a call, both tools offered."""
    return chat(WEATHER_QUESTION, 100, **{"Tools": TOOLS, "ToolChoice": '"auto"', **fields})


@dataclass(slots=True)
class Call:
    """A tool call as a host puts it together."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Turn:
    """One answer as a host sees it: `message` joined, deltas joined, calls by index."""

    answer: Answer
    message: str = ""
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list[Call])

    @classmethod
    def of(cls, answer: Answer) -> "Turn":
        """Put the replies together; a call's index, id and name must come first, and once."""
        assert answer.replies, (answer.code, answer.details)
        turn = cls(answer, message=answer.text)
        for delta in (delta for reply in answer.replies for delta in reply.chat_deltas):
            turn.content += delta.content
            turn.reasoning += delta.reasoning_content
            for piece in delta.tool_calls:
                turn._add(piece)
        return turn

    def _add(self, piece: pb.ToolCallDelta) -> None:
        if piece.index == len(self.calls):
            assert piece.id and piece.name, piece
            self.calls.append(Call(piece.id, piece.name, piece.arguments))
            return
        call = self.calls[piece.index]
        assert piece.id in ("", call.id) and piece.name in ("", call.name), piece
        call.arguments += piece.arguments

    @property
    def text(self) -> str:
        """What a host shows, whichever field it reads."""
        return self.content or self.message

    def said(self) -> tuple[object, ...]:
        """All but ids and times, to compare two answers to the same question."""
        calls = [(call.name, call.arguments) for call in self.calls]
        last = self.answer.last
        counts = (last.tokens, last.prompt_tokens, last.logprobs, self.answer.reason)
        return self.text, self.message, self.reasoning, calls, counts


def ask(worker: Worker, request: pb.PredictOptions) -> Turn:
    """The answer in both forms, which must agree; the streamed one is returned."""
    whole, streamed = Turn.of(predict(worker.stub, request)), Turn.of(stream(worker.stub, request))
    if streamed.answer.reason in ("length", "stop-string"):
        assert runnable(streamed.calls) == runnable(whole.calls)
        del streamed.calls[len(whole.calls) :]  # of a call that was cut, a stream has the beginning
    assert whole.said() == streamed.said()
    return streamed


def runnable(calls: Sequence[Call]) -> list[tuple[str, str]]:
    """The calls that a client can run: those whose arguments are all of a JSON value."""
    return [(call.name, call.arguments) for call in calls if is_json(call.arguments)]


def turns(*messages: pb.Message, tokens: int = 100, **fields: Any) -> pb.PredictOptions:
    """A conversation through the chat template."""
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=tokens, **fields)


def history(calls: Sequence[Call]) -> str:
    """Calls as a host sends them back: OpenAI's JSON, arguments as text."""
    return json.dumps(
        [
            {
                "index": index,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(calls)
        ]
    )
