"""What public chat templates do, rendered by the worker and by transformers."""

from collections.abc import Callable

import pytest

from backend.core.request import Conversation, Json, Message, ToolCall
from backend.prompt.chat_template import ChatTemplate
from tests.prompt import features, templates

ARGUMENTS: dict[str, Json] = {"city": "Z\u00fcrich", "n": 1.0, "deep": {"a": [1, None, True], "b": "<&>"}}
TOOL: dict[str, Json] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now>, \u2603",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where", "enum": ["Z\u00fcrich", "Bern"]},
                "n": {"type": ["integer", "null"]},
                "days": {"type": "array", "items": {"type": "string"}},
                "any": {},
            },
            "required": ["city"],
        },
    },
}
KWARGS: dict[str, Json] = {
    "enable_thinking": True,
    "reasoning_effort": "low",
    "builtin_tools": ["browser"],
    "custom": {"deep": [{"name": "x"}]},
}
TALK = Conversation(
    messages=(
        Message(role="system", content="Be brief. "),
        Message(role="user", content="What about \u2603 and 'that', really?"),
        Message(
            role="assistant",
            content="I look.",
            reasoning_content="It asks.\n",
            tool_calls=(ToolCall(id="call00001", name="get_weather", arguments=ARGUMENTS),),
        ),
        Message(role="tool", content="sunny", name="get_weather", tool_call_id="call00001"),
        Message(role="assistant", content="<think>so</think>\n\nSunny."),
        Message(role="user", content="Thanks"),
    ),
    tools=(TOOL,),
    template_kwargs=KWARGS,
)


def as_transformers_renders(source: str) -> str:
    messages: list[dict[str, object]] = []
    for m in TALK.messages:
        fields = {"name": m.name, "tool_call_id": m.tool_call_id, "reasoning_content": m.reasoning_content}
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in m.tool_calls
        ]
        given = {name: value for name, value in {**fields, "tool_calls": calls}.items() if value}
        messages.append({"role": m.role, "content": m.content, **given})
    return templates.small_tokenizer().apply_chat_template(
        messages, tools=[TOOL], chat_template=source, tokenize=False, add_generation_prompt=True, **KWARGS
    )


@pytest.mark.parametrize("source", features.ALL.values(), ids=features.ALL.keys())
def test_a_feature_renders_as_transformers_renders_it(chat_template: Callable[..., ChatTemplate], source: str) -> None:
    expected = as_transformers_renders(source)
    assert expected.strip()
    assert chat_template(source).render(TALK).text == expected
