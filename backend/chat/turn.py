"""One turn over the wire: the request of a conversation, and the message that its answer becomes."""

import json
from dataclasses import dataclass, field
from typing import Any

from backend.chat.conversation import Conversation, Message
from backend.chat.sampling import fields
from backend.client.answers import CallPart, Part
from backend.pb import backend_pb2 as pb

_PLAIN = ("role", "content", "name", "tool_call_id", "reasoning_content")


def request_of(conversation: Conversation) -> pb.PredictOptions:
    """What is sent for the next answer."""
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    wire, metadata = fields(conversation.settings)
    if conversation.thinking is not None:
        metadata["enable_thinking"] = "true" if conversation.thinking else "false"
    return pb.PredictOptions(
        Messages=[_wire(message) for message in (*system, *conversation.messages)],
        UseTokenizerTemplate=True,
        Tools=json.dumps(conversation.tools) if conversation.tools else "",
        Metadata=metadata,
        **wire,
    )


def _wire(message: Message) -> pb.Message:
    calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
    return pb.Message(tool_calls=calls, **{name: message[name] for name in _PLAIN if name in message})


@dataclass(slots=True)
class Answer:
    """An answer so far."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    prompt_tokens: int = 0
    decode_s: float = 0.0

    def take(self, part: Part) -> None:
        """What the next reply brings."""
        self.content += part.content
        self.reasoning += part.reasoning
        self.prompt_tokens = part.prompt_tokens or self.prompt_tokens
        self.decode_s = part.decode_s or self.decode_s
        for piece in part.calls:
            self._take_call(piece)

    def message(self) -> Message:
        """What the conversation goes on from."""
        told: Message = {"role": "assistant", "content": self.content}
        if self.reasoning:
            told["reasoning_content"] = self.reasoning
        if self.calls:
            told["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return told

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come."""
        return not (self.content or self.reasoning or self.calls)

    def _take_call(self, piece: CallPart) -> None:
        call = self.calls.setdefault(
            piece.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.id or call["id"]
        call["function"]["name"] = piece.name or call["function"]["name"]
        call["function"]["arguments"] += piece.arguments
