"""Conversations as chat templates read them."""

import json
from collections.abc import Sequence
from typing import Any

from backend.core.request import Conversation, Message, ToolCall
from backend.prompt.agent_header import strip_agent_header

SYSTEM_ROLES = ("system", "developer")


def template_messages(
    conversation: Conversation,
    *,
    without_agent_header: bool,
    arguments_as_text: bool,
    developer_as_system: bool = False,
) -> list[dict[str, Any]]:
    """The messages as dictionaries.

    Args:
        without_agent_header: Strip the agent header from system messages.
        arguments_as_text: Give tool-call arguments as JSON text, for the templates that cannot take an object.
        developer_as_system: Give the role `developer`, OpenAI's later name for it, as `system`.
    """
    messages = [_as_dict(message, without_agent_header, arguments_as_text) for message in conversation.messages]
    for message in messages if developer_as_system else ():
        if message["role"] == "developer":
            message["role"] = "system"
    return messages


def _as_dict(message: Message, without_agent_header: bool, arguments_as_text: bool) -> dict[str, Any]:
    content = message.content
    if without_agent_header and message.role in SYSTEM_ROLES:
        content = strip_agent_header(content)
    out: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        out["name"] = message.name
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning_content:
        out["reasoning_content"] = message.reasoning_content
        out["thinking"] = message.reasoning_content  # the name that gpt-oss templates read
    if message.tool_calls:
        out["tool_calls"] = [_call(call, arguments_as_text) for call in message.tool_calls]
    return out


def _call(call: ToolCall, arguments_as_text: bool) -> dict[str, Any]:
    arguments = call.arguments
    if arguments_as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    out: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **out} if call.id else out


def continues_final(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    return bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls


def leading_system(messages: Sequence[dict[str, Any]]) -> int:
    """How many system messages the conversation begins with."""
    count = 0
    while count < len(messages) and messages[count]["role"] in SYSTEM_ROLES:
        count += 1
    return count


def last_user(messages: Sequence[dict[str, Any]]) -> int | None:
    """Index of the last user message."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return users[-1] if users else None
