"""What a chat template needs that nothing in it declares, found by having it render made-up conversations.

Each need is one way in which templates differ from each other and from what clients send. A template that renders the
made-up conversation as it is gets all conversations as they are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.core.request import Conversation, Json, Message, ToolCall
from backend.prompt.messages import Shape, is_whole, leading_system

# A conversation in a shape, rendered with a template; None if it refuses.
Attempt = Callable[[str, Conversation, Shape], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """One need: whom it concerns, a conversation that shows it, and whether that came out right.

    Attributes:
        name: The shape's attribute.
        right: Of what the template made of the probe.
        word: What a template has that takes the probe as it is; one without it may print what no model ever saw.
    """

    name: str
    concerns: Callable[[Conversation], bool]
    probe: Conversation
    right: Callable[[str], bool]
    word: re.Pattern[str] | None = None


class TemplateNeeds:
    """Remembers the needs of each template. Any thread: two at once find out the same."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._known: dict[tuple[str, str], bool] = {}

    def shape(self, source: str, conversation: Conversation) -> Shape:
        """The shape in which a template takes a conversation."""
        shape = Shape()
        for need in _NEEDS:
            if need.concerns(conversation) and self._has(source, need, shape, conversation):
                shape = replace(shape, **{need.name: True})
        return shape

    def _has(self, source: str, need: _Need, shape: Shape, conversation: Conversation) -> bool:
        key = source, need.name
        if key not in self._known:
            found = self._find_out(source, need, shape, conversation)
            if found is None:
                return False
            self._known[key] = found
        return self._known[key]

    def _find_out(self, source: str, need: _Need, shape: Shape, conversation: Conversation) -> bool | None:
        """None where the probe comes out wrong in either way, and the conversation itself shall say why."""
        probe = need.probe
        if not probe.tools and conversation.tools:
            # A template for tools may take no conversation without.
            probe, shape = replace(probe, tools=conversation.tools), replace(shape, whole_tools=True)
        # A function has no source to look at.
        unheard_of = source and need.word and not need.word.search(source)
        for needed in (True,) if unheard_of else (False, True):
            text = self._attempt(source, probe, replace(shape, **{need.name: needed}))
            if text is not None and need.right(text):
                return needed
        return None


def _is_full(message: Message) -> bool:
    return bool(message.tool_calls and message.content and message.reasoning_content)


_PROBE, _OTHER = "a probe", "another probe"
_ASKS = Message(role="user", content=_PROBE)
_CALL = ToolCall(id="call00000", name="probe_tool", arguments={"probe_key": "probe value"})
_RESULT = Message(role="tool", content=_OTHER, name="probe_tool", tool_call_id=_CALL.id)
# Dictionaries printed as Python prints them, which no model was trained on.
_AS_REPR, _PART_AS_REPR = "'probe_key'", "'type'"


def _tool(**function: Json) -> dict[str, Json]:
    return {"type": "function", "function": {"name": "probe_tool", **function}}


_NEEDS = (
    _Need(
        name="content_parts",
        concerns=lambda _: True,
        probe=Conversation(messages=(_ASKS,)),
        right=lambda text: _PROBE in text and _PART_AS_REPR not in text,
    ),
    _Need(
        name="developer_as_system",
        concerns=lambda c: any(message.role == "developer" for message in c.messages),
        probe=Conversation(messages=(Message(role="developer", content=_PROBE), Message(role="user", content=_OTHER))),
        right=lambda text: _PROBE in text,
        word=re.compile(r"""(['"])developer\1"""),
    ),
    _Need(
        name="one_system",
        concerns=lambda c: leading_system(m.role for m in c.messages) > 1,
        probe=Conversation(
            messages=(
                Message(role="system", content=_PROBE),
                Message(role="system", content=_OTHER),
                Message(role="user", content="?"),
            )
        ),
        right=lambda text: _PROBE in text and _OTHER in text,
    ),
    _Need(
        name="whole_tools",
        concerns=lambda c: not all(map(is_whole, c.tools)),
        probe=Conversation(
            messages=(_ASKS,),
            tools=(_tool(), _tool(description="", parameters={}), _tool(parameters={"type": "object"})),
        ),
        right=lambda _: True,
    ),
    _Need(
        name="arguments_as_text",
        concerns=lambda c: any(message.tool_calls for message in c.messages),
        probe=Conversation(messages=(_ASKS, Message(role="assistant", tool_calls=(_CALL,)), _RESULT)),
        right=lambda text: _AS_REPR not in text,
    ),
    _Need(
        name="reasoning_alone",
        concerns=lambda c: any(map(_is_full, c.messages)),
        probe=Conversation(
            messages=(
                _ASKS,
                Message(role="assistant", content=_OTHER, reasoning_content=_OTHER, tool_calls=(_CALL,)),
                _RESULT,
            )
        ),
        right=lambda _: True,
    ),
)
