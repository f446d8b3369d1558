"""Messages, tools and template arguments of a request, as a `Conversation`."""

from collections.abc import Mapping
from typing import Final, Literal

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Json, Message, ToolCall, ToolChoice
from backend.pb import backend_pb2 as pb
from backend.translate.strict_json import parse_json, parse_object

MAX_TOOLS = 512
MAX_TOOLS_BYTES = 1 << 20
MAX_KWARGS_BYTES = 256 << 10

_MODES: Final[Mapping[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
}
# Arguments of the template call itself; a client that set one would replace the template or the messages.
RESERVED_KWARGS = frozenset({"chat_template", "conversation", "documents", "messages", "tokenize", "tools"})


def conversation_of(wire: pb.PredictOptions, template_kwargs: Mapping[str, Json]) -> Conversation:
    """The request's conversation.

    Args:
        template_kwargs: The model's defaults; the request's win.

    Raises:
        InvalidRequest: A JSON field is broken or of the wrong form.
    """
    tools = tools_of(wire.Tools)
    return Conversation(
        messages=tuple(_message(index, message) for index, message in enumerate(wire.Messages)),
        tools=tools,
        tool_choice=tool_choice_of(wire.ToolChoice, tools),
        template_kwargs={**template_kwargs, **_kwargs_of(wire.Metadata)},
    )


def tools_of(text: str) -> tuple[dict[str, Json], ...]:
    """The `Tools` field: a JSON array of OpenAI tool objects, empty or `null` for none."""
    value = parse_json("Tools", text, max_bytes=MAX_TOOLS_BYTES) if text.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("Tools", "must be a JSON array")
    if len(value) > MAX_TOOLS:
        raise InvalidRequest("Tools", f"has {len(value)} entries, limit {MAX_TOOLS}")
    return tuple(_tool(index, tool) for index, tool in enumerate(value))


def tool_choice_of(text: str, tools: tuple[dict[str, Json], ...]) -> ToolChoice:
    """The `ToolChoice` field: JSON, or one of its words without the quotes."""
    text = text.strip()
    value: Json = text
    if text[:1] in ('"', "{", "[") or text == "null":
        value = parse_json("ToolChoice", text, max_bytes=MAX_KWARGS_BYTES)
    choice = _choice(value, {tool_name(tool) for tool in tools})
    if choice.mode == "required" and not tools:
        raise InvalidRequest("ToolChoice", "asks for a tool call, but Tools is empty")
    return choice


def tool_name(tool: Mapping[str, Json]) -> str:
    """The name in an OpenAI tool object that `tools_of` accepted."""
    function = tool["function"]
    assert isinstance(function, dict)
    return str(function["name"])


def _choice(value: Json, names: set[str]) -> ToolChoice:
    if isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        if name is not None:
            return _function(name, names)
        value = value.get("type")
    if value is None or value == "":
        return ToolChoice()
    if isinstance(value, str) and value in _MODES:
        return ToolChoice(mode=_MODES[value])
    return _function(value, names)


def _function(name: Json, names: set[str]) -> ToolChoice:
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest("ToolChoice", "must be auto, none, required, or name a function of Tools")
    return ToolChoice(mode="function", function=name)


def _tool(index: int, tool: Json) -> dict[str, Json]:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(tool, dict) or not isinstance(name, str) or not name:
        raise InvalidRequest(f"Tools[{index}]", "must be an object with function.name")
    return tool


def _message(index: int, wire: pb.Message) -> Message:
    if not wire.role:
        raise InvalidRequest(f"Messages[{index}].role", "is empty")
    return Message(
        role=wire.role,
        content=wire.content,
        name=wire.name,
        tool_call_id=wire.tool_call_id,
        reasoning_content=wire.reasoning_content,
        tool_calls=_tool_calls(f"Messages[{index}].tool_calls", wire.tool_calls),
    )


def _tool_calls(field: str, text: str) -> tuple[ToolCall, ...]:
    value = parse_json(field, text, max_bytes=MAX_TOOLS_BYTES) if text.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest(field, "must be a JSON array")
    return tuple(_tool_call(field, call) for call in value)


def _tool_call(field: str, call: Json) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise InvalidRequest(field, "each call must be an object with function.name")
    identifier = call.get("id")
    return ToolCall(
        id=identifier if isinstance(identifier, str) else "",
        name=name,
        arguments=_arguments(field, function.get("arguments")),
    )


def _arguments(field: str, value: Json) -> Json:
    """Arguments as templates want them: decoded. They are a model's own words, so text that is no JSON stays text."""
    if value is None or value == "":
        return {}
    if not isinstance(value, str):
        return value
    try:
        return parse_json(field, value, max_bytes=MAX_TOOLS_BYTES)
    except InvalidRequest:
        return value


def _kwargs_of(metadata: Mapping[str, str]) -> dict[str, Json]:
    kwargs: dict[str, Json] = {}
    if "enable_thinking" in metadata:
        kwargs["enable_thinking"] = _boolean("enable_thinking", metadata["enable_thinking"])
    if "reasoning_effort" in metadata:
        kwargs["reasoning_effort"] = metadata["reasoning_effort"]
    # The host writes this blob last, over what the keys above say.
    blob = metadata.get("chat_template_kwargs", "")
    if blob.strip():
        field = "Metadata[chat_template_kwargs]"
        kwargs |= parse_object(field, blob, max_bytes=MAX_KWARGS_BYTES)
        reserved = sorted(RESERVED_KWARGS & kwargs.keys())
        if reserved:
            raise InvalidRequest(field, f"may not set {', '.join(reserved)}")
    return kwargs


def _boolean(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"Metadata[{key}]", "must be true or false")
    return text.lower() == "true"
