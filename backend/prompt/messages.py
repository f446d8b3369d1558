"""Conversations as chat templates read them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from backend.core.request import Conversation, Json, Message, ToolCall
from backend.prompt.agent_header import strip_agent_header

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How conversations are given to a template.

    Attributes:
        content_parts: Content as `[{"type": "text", "text": ...}]`: some templates for models that see images print
            nothing of a plain text.
        developer_as_system: The role `developer`, OpenAI's later name for it, as `system`.
        one_system: The system messages at the beginning as one.
        whole_tools: Tools with a description, and parameters with properties, though they be empty.
        arguments_as_text: The arguments of calls as JSON text.
        reasoning_alone: No content beside reasoning in a message that calls tools.
    """

    content_parts: bool = False
    developer_as_system: bool = False
    one_system: bool = False
    whole_tools: bool = False
    arguments_as_text: bool = False
    reasoning_alone: bool = False


def template_messages(conversation: Conversation, shape: Shape, *, without_agent_header: bool) -> list[dict[str, Any]]:
    """The messages as dictionaries. Their content is text: parts are made of it when it is rendered.

    Args:
        without_agent_header: Strip the agent header from system messages.
    """
    messages = [_as_dict(message, shape, without_agent_header) for message in conversation.messages]
    count = leading_system(message.role for message in conversation.messages)
    if shape.one_system and count > 1:
        together = "\n\n".join(message["content"] for message in messages[:count])
        return [{**messages[0], "content": together}, *messages[count:]]
    return messages


def _as_dict(message: Message, shape: Shape, without_agent_header: bool) -> dict[str, Any]:
    role, content = message.role, message.content
    if without_agent_header and role in SYSTEM_ROLES:
        content = strip_agent_header(content)
    if shape.developer_as_system and role == "developer":
        role = "system"
    if shape.reasoning_alone and message.tool_calls and message.reasoning_content:
        content = ""
    out: dict[str, Any] = {"role": role, "content": content}
    if message.reasoning_content:
        out = {"thinking": message.reasoning_content, **out}  # transformers' order, and the name in gpt-oss's template
    if message.name:
        out["name"] = message.name
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning_content:
        out["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        out["tool_calls"] = [_call(call, shape.arguments_as_text) for call in message.tool_calls]
    return out


def _call(call: ToolCall, as_text: bool) -> dict[str, Any]:
    arguments = call.arguments
    if as_text and not isinstance(arguments, str):
        # The text itself where there is one: the model's own words, so that the prompt cache knows them again.
        arguments = call.text or json.dumps(arguments, ensure_ascii=False)
    out: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **out} if call.id else out


def is_whole(tool: dict[str, Json]) -> bool:
    """Whether a tool has all that some templates read without asking."""
    function = tool.get("function")
    parameters = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(function, dict) or "description" not in function:
        return False
    return isinstance(parameters, dict) and "properties" in parameters


def whole_tool(tool: dict[str, Json]) -> dict[str, Json]:
    """The tool with an empty description and empty parameters where it has none."""
    function = tool.get("function")
    if not isinstance(function, dict) or is_whole(tool):
        return tool
    given = function.get("parameters")
    parameters = {"type": "object", "properties": {}, **(given if isinstance(given, dict) else {})}
    return {**tool, "function": {**function, "description": function.get("description", ""), "parameters": parameters}}


def continues_final(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    return bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls


def leading_system(roles: Iterable[str]) -> int:
    """How many system messages a conversation of these roles begins with."""
    return len(list(takewhile(SYSTEM_ROLES.__contains__, roles)))


def last_user(messages: Sequence[dict[str, Any]]) -> int | None:
    """Index of the last user message."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return users[-1] if users else None
