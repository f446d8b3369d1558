"""Messages, tools and template arguments of a request, as a `Conversation`."""

from collections.abc import Mapping
from typing import Final, Literal

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Json, Message, ToolCall, ToolChoice
from backend.core.utf8 import utf8_size
from backend.pb import backend_pb2 as pb
from backend.translate.strict_json import JsonBudget, parse_json, parse_object
from backend.translate.wire_limits import MAX_ARGUMENTS_BYTES, MAX_TOOLS_BYTES

Tools = tuple[dict[str, Json], ...]

MAX_TOOLS = 512
# Of all messages together; parsed, such JSON takes some fifty times its size.
MAX_TOOL_CALLS_BYTES = 4 << 20

_MODES: Final[Mapping[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Anthropic's word
}
# Arguments of the template call itself; a client that set one would replace the template or the messages.
RESERVED_KWARGS = frozenset({"add_generation_prompt", "chat_template", "conversation", "messages", "tokenize", "tools"})


def conversation_of(wire: pb.PredictOptions, template_kwargs: Mapping[str, Json]) -> Conversation:
    """The request's conversation.

    Args:
        template_kwargs: The model's defaults; the request's win.

    Raises:
        InvalidRequest: A JSON field is broken or of the wrong form.
    """
    json_bytes = len(wire.Tools) + len(wire.Metadata.get("chat_template_kwargs", "")) + _tool_calls_size(wire)
    tools = tools_of(wire.Tools)
    choice, tools = tool_choice_of(wire.ToolChoice, tools)
    budget = JsonBudget()
    return Conversation(
        messages=tuple(_message(index, message, budget) for index, message in enumerate(wire.Messages)),
        tools=tools,
        tool_choice=choice,
        one_call=not _boolean_of(wire.Metadata, "parallel_tool_calls", default=True),
        template_kwargs={**template_kwargs, **_kwargs_of(wire.Metadata)},
        json_bytes=json_bytes,
    )


def tools_of(text: str) -> Tools:
    """The `Tools` field: a JSON array of OpenAI tool objects, empty or `null` for none."""
    value = parse_json("Tools", text, max_bytes=MAX_TOOLS_BYTES) if text.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("Tools", "must be a JSON array")
    if len(value) > MAX_TOOLS:
        raise InvalidRequest("Tools", f"has {len(value)} entries, limit {MAX_TOOLS}")
    return tuple(_tool(index, tool) for index, tool in enumerate(value))


def _tool_calls_size(wire: pb.PredictOptions) -> int:
    """Bytes of all messages' calls, before any of them is parsed."""
    size = sum(utf8_size(message.tool_calls) for message in wire.Messages)
    if size > MAX_TOOL_CALLS_BYTES:
        raise InvalidRequest("Messages", f"have {size} bytes of tool_calls, limit {MAX_TOOL_CALLS_BYTES}")
    return size


def tool_choice_of(text: str, tools: Tools) -> tuple[ToolChoice, Tools]:
    """The `ToolChoice` field, and the tools that it leaves: JSON, or one of its words without the quotes.

    Raises:
        InvalidRequest: It is no choice, or names what is not among the tools.
    """
    text = text.strip()
    value: Json = text
    if text[:1] in ('"', "{", "[") or text == "null":
        value = parse_json("ToolChoice", text, max_bytes=MAX_ARGUMENTS_BYTES)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        value, tools = _allowed(value, tools)
    choice = _choice(value, {tool_name(tool) for tool in tools})
    if choice.mode == "required" and not tools:
        raise InvalidRequest("ToolChoice", "asks for a tool call, but Tools is empty")
    return choice, tools


def _allowed(value: dict[str, Json], tools: Tools) -> tuple[Json, Tools]:
    """The mode of OpenAI's `allowed_tools`, and the tools that it allows."""
    # Chat Completions puts both into an object of their own, Responses does not.
    inner = value.get("allowed_tools")
    allowed = inner if isinstance(inner, dict) else value
    entries, mode = allowed.get("tools"), allowed.get("mode", "auto")
    if not isinstance(entries, list) or not entries or mode not in ("auto", "required"):
        raise InvalidRequest("ToolChoice", "allowed_tools needs mode auto or required, and tools")
    known = {tool_name(tool) for tool in tools}
    names = {_function(_name_in(entry), known).function for entry in entries}
    return mode, tuple(tool for tool in tools if tool_name(tool) in names)


def _name_in(value: Json) -> Json:
    """The function's name in `{"function": {"name": ...}}` (OpenAI) or `{"name": ...}` (Anthropic); None without."""
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    return function.get("name") if isinstance(function, dict) else value.get("name")


def tool_name(tool: Mapping[str, Json]) -> str:
    """The name in an OpenAI tool object that `tools_of` accepted."""
    function = tool["function"]
    assert isinstance(function, dict)
    return str(function["name"])


def _choice(value: Json, names: set[str]) -> ToolChoice:
    if isinstance(value, dict):
        name = _name_in(value)
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
        raise InvalidRequest("ToolChoice", "must be auto, none, required, any, or name a function of Tools")
    return ToolChoice(mode="function", function=name)


def _tool(index: int, tool: Json) -> dict[str, Json]:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(tool, dict) or not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise InvalidRequest(f"Tools[{index}]", "must be an object with function.name")
    function = _without_nulls(function)
    parameters = function.get("parameters")
    if isinstance(parameters, dict):
        function["parameters"] = _without_nulls(parameters)
    return {**tool, "function": function}


def _without_nulls(value: dict[str, Json]) -> dict[str, Json]:
    """Hosts in Go write null for what their client has not sent, and templates take it for a value."""
    return {key: member for key, member in value.items() if member is not None}


def _message(index: int, wire: pb.Message, budget: JsonBudget) -> Message:
    if not wire.role:
        raise InvalidRequest(f"Messages[{index}].role", "is empty")
    return Message(
        role=wire.role,
        content=wire.content,
        name=wire.name,
        tool_call_id=wire.tool_call_id,
        reasoning_content=wire.reasoning_content,
        tool_calls=_tool_calls(f"Messages[{index}].tool_calls", wire.tool_calls, budget),
    )


def _tool_calls(field: str, text: str, budget: JsonBudget) -> tuple[ToolCall, ...]:
    value = parse_json(field, text, max_bytes=MAX_TOOLS_BYTES, budget=budget) if text.strip() else None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest(field, "must be a JSON array")
    return tuple(_tool_call(field, call, budget) for call in value)


def _tool_call(field: str, call: Json, budget: JsonBudget) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise InvalidRequest(field, "each call must be an object with function.name")
    identifier = call.get("id")
    arguments = _arguments(field, function.get("arguments"), budget)
    text = function.get("arguments")
    return ToolCall(
        id=identifier if isinstance(identifier, str) else "",
        name=name,
        arguments=arguments,
        text=text if isinstance(text, str) and arguments != {} else "",
    )


def _arguments(field: str, value: Json, budget: JsonBudget) -> Json:
    """Arguments as templates want them: decoded. They are a model's own words, so text that is no JSON stays text."""
    if isinstance(value, str) and value:
        try:
            value = parse_json(field, value, max_bytes=MAX_TOOLS_BYTES, budget=budget)
        except InvalidRequest:
            if budget.left < 0:
                raise
            return value
    return {} if value is None or value == "" else value


def _kwargs_of(metadata: Mapping[str, str]) -> dict[str, Json]:
    kwargs: dict[str, Json] = {}
    if "enable_thinking" in metadata:
        kwargs["enable_thinking"] = _boolean_of(metadata, "enable_thinking")
    if "reasoning_effort" in metadata:
        kwargs["reasoning_effort"] = metadata["reasoning_effort"]
    # The host writes this blob last, over what the keys above say.
    blob = metadata.get("chat_template_kwargs", "")
    if blob.strip():
        field = "Metadata[chat_template_kwargs]"
        kwargs |= parse_object(field, blob, max_bytes=MAX_ARGUMENTS_BYTES)
        if fault := kwargs_fault(kwargs):
            raise InvalidRequest(field, fault)
    return kwargs


def kwargs_fault(kwargs: Mapping[str, Json]) -> str:
    """What is wrong with arguments for a template; empty if nothing is."""
    if reserved := RESERVED_KWARGS & kwargs.keys():
        return f"may not set {', '.join(sorted(reserved))}"
    documents = kwargs.get("documents")
    if documents is not None and not (isinstance(documents, list) and all(isinstance(d, dict) for d in documents)):
        return "documents must be a list of objects"
    if not isinstance(kwargs.get("continue_final_message", True), bool):
        return "continue_final_message must be true or false"
    return ""


def _boolean_of(metadata: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    text = metadata.get(key)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"Metadata[{key}]", "must be true or false")
    return text.lower() == "true"
