"""A conversation: what was said, with which tools and settings; kept in a file and read back. Pure but for the file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backend.chat.sampling import FIELDS, Value, read

Message = dict[str, Any]
_ROLES: Final = ("system", "user", "assistant", "tool")
_TEXTS: Final = ("content", "reasoning_content", "name", "tool_call_id")


@dataclass(slots=True)
class Conversation:
    """What the next request is made of.

    Attributes:
        messages: As OpenAI's API has them, the system's apart.
        tools: OpenAI's tool objects; empty for none.
        thinking: For the chat template; None leaves it to the template.
    """

    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    tools: list[Any] = field(default_factory=list[Any])
    settings: dict[str, Value] = field(default_factory=dict[str, Value])
    thinking: bool | None = None

    def save(self, path: Path) -> None:
        """Write all of it to a file; raises OSError."""
        told = {
            "system": self.system,
            "messages": self.messages,
            "tools": self.tools,
            "settings": self.settings,
            "thinking": self.thinking,
        }
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def open_calls(self) -> list[Message]:
        """Tool calls of the last answer that have no result yet."""
        answered: set[str] = set()
        for message in reversed(self.messages):
            if message["role"] == "tool":
                answered.add(message.get("tool_call_id", ""))
            else:
                return [call for call in message.get("tool_calls", ()) if call["id"] not in answered]
        return []


def load(path: Path) -> Conversation:
    """What `save` wrote, or a plain array of messages.

    Raises:
        ValueError: It is something else, or cannot be read; one sentence.
    """
    found = read_json(path)
    told: Any = {"messages": found} if isinstance(found, list) else found
    if not isinstance(told, dict) or not isinstance(told.get("messages"), list):
        raise ValueError(f"{path} holds no conversation.")
    messages = [_message(path, place, one) for place, one in enumerate(told["messages"])]
    system = told.get("system", "")
    if messages and messages[0]["role"] == "system" and not system:
        system = messages.pop(0).get("content", "")
    settings, thinking, tools = told.get("settings") or {}, told.get("thinking"), told.get("tools") or []
    right = isinstance(system, str) and isinstance(settings, dict) and isinstance(tools, list)
    right = right and all(map(_is_tool, tools))
    if not right or thinking not in (None, True, False):
        raise ValueError(f"{path} holds no conversation.")
    known = {name: read(name, str(value)) for name, value in settings.items() if name in FIELDS}
    return Conversation(system, messages, tools, known, thinking)


def load_tools(path: Path) -> list[Any]:
    """The array of tools in a file.

    Raises:
        ValueError: It is something else, or cannot be read; one sentence.
    """
    found = read_json(path)
    if not isinstance(found, list) or not found or not all(map(_is_tool, found)):
        raise ValueError(f"{path} holds no JSON array of tools, each with a function and its name.")
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: It cannot be read, or is no JSON; one sentence.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON.") from None


def _message(path: Path, place: int, message: Any) -> Message:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise ValueError(f"{path}: message {place} has no role of {', '.join(_ROLES)}.")
    kept: Message = {"role": message["role"]}
    for name in _TEXTS:
        if message.get(name) is not None:
            if not isinstance(message[name], str):
                raise ValueError(f"{path}: message {place}: {name} must be text.")
            kept[name] = message[name]
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(map(_is_call, calls)):
        raise ValueError(f"{path}: message {place}: tool_calls must be calls with an id and a function.")
    return kept | ({"tool_calls": calls} if calls else {})


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("id"), str) and _is_named(call.get("function"))


def _is_tool(tool: Any) -> bool:
    # Some write the function itself.
    return isinstance(tool, dict) and _is_named(tool.get("function", tool))


def _is_named(function: Any) -> bool:
    return isinstance(function, dict) and isinstance(function.get("name"), str)
