"""Chat templates from anywhere: probed and rendered in the process that is there for it."""

import json
import random
import zlib
from typing import Any

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Message, ToolCall, ToolChoice
from backend.core.utf8 import is_unicode
from backend.prompt.chat_template import ChatTemplate, TemplateSettings
from backend.prompt.renderer import ProcessRenderer
from tests.fuzz.changing import Words, change_text
from tests.fuzz.target import Broken, Target
from tests.output.golden import TOOLS
from tests.prompt import templates as shipped

RENDER_SECONDS = 0.5
# As models have them, and some that reach for what they may not have.
SOURCES = (
    *(text for name, text in vars(shipped).items() if name.isupper() and isinstance(text, str)),
    "{{ messages[0].content }}", "{{ messages | tojson }}", "{{ ''.__class__.__mro__ }}", "{{ 'a' * 10**10 }}",
    "{% for i in range(10**9) %}{% endfor %}", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ raise_exception('no') }}",
    "{% set x = namespace(a=1) %}{% set x.a = x %}{{ x }}", "{{ '%s' | format(1) }}{{ '{:>99}'.format('a') }}",
    "{{ \"\\ud800\" }}",
    "{{ strftime_now('%Y-%m-%d') }}{{ dict(a=1) }}{{ cycler(1, 2).next() }}{{ lipsum(1) }}",
    "{% include 'a' %}{% import 'a' as b %}",
    "{% generation %}{{ messages[-1]['content'][::-1] | upper | trim | replace('a', 'b') }}{% endgeneration %}",
    "{% filter upper %}{% call(x) joiner() %}{% endcall %}{% endfilter %}",
    "{{ [1, 2] | map('string') | join(',') | safe | urlize }}",
)  # fmt: skip
WORDS = [word.encode() for word in (
    "{{ ", " }}", "{% ", " %}", "{%- ", "-%}", "{# ", " #}", "for m in messages", "endfor", "if tools", "endif",
    "set x = ", "endset", "macro", "endmacro", "loop.index0", "loop.last", "loop.previtem", "messages", "content",
    "role", "tool_calls", "function", "arguments", "tools", "add_generation_prompt", "namespace(", "| tojson",
    "| trim", "| list", "| groupby('a')", "| sort", "| batch(2)", "| attr('x')", "| selectattr('a')", "is defined",
    "is mapping", "is string", ".items()", ".split(", "[::-1]", "~", "**", "//", "range(", "lipsum", "joiner",
    "self", "caller()", "varargs", "recursive", "autoescape true", "raise_exception(", "strftime_now(", "%",
    ".format(", "__class__", "**kwargs", "continue", "break", "do", "with", "block", "extends", "raw", "endraw",
    "generation", "endgeneration", "\x00", "9" * 30,
)]  # fmt: skip
_USER, _ANSWER = (
    Message(role="user", content="Who?"),
    Message(role="assistant", content="Me. ", reasoning_content="Hm."),
)
_CALL = ToolCall(id="c1", name="get_weather", arguments={"city": "Z\u00fcrich"}, text='{"city": "Z\u00fcrich"}')
_CALLING = (
    Message(role="assistant", content="", tool_calls=(_CALL,)),
    Message(role="tool", content="12", tool_call_id="c1"),
)
_ASKED: tuple[tuple[tuple[Message, ...], tuple[dict[str, Any], ...], dict[str, Any]], ...] = (
    ((_USER,), (), {}),
    ((Message(role="developer", content="Be."), Message(role="system", content="Be."), _USER, _ANSWER, _USER), (), {}),
    ((_USER, *_CALLING), TOOLS, {"enable_thinking": False}),
    ((_USER, _ANSWER), TOOLS, {"documents": [{"title": "t"}], "a": [1, None, {}]}),
)
CONVERSATIONS = tuple(
    Conversation(messages=messages, tools=tools, tool_choice=ToolChoice(), template_kwargs=kwargs, json_bytes=0)
    for messages, tools, kwargs in _ASKED
)


def templates() -> Target:
    """A template's source; conversations of each kind in turn."""
    renderer = ProcessRenderer()
    renderer.start()

    def render(data: bytes) -> None:
        conversation = CONVERSATIONS[zlib.crc32(data) % len(CONVERSATIONS)]
        sources = {"default": data.decode("utf-8", "replace")}
        settings = TemplateSettings(
            sources=sources, special_tokens={"bos_token": "<s>"}, variables={}, seconds=RENDER_SECONDS
        )
        rendered = ChatTemplate(settings, renderer).render(conversation)
        if not is_unicode(rendered.text) or not all(0 <= place <= len(rendered.text) for place in rendered.shared):
            raise Broken("what is rendered is no text, or its places are not in it", rendered.shared)
        json.dumps(rendered.text)

    # Each of the attempts that learn what a template needs may take its time.
    return Target(
        run=render,
        seeds=_seeds(),
        change=change_template,
        refusals=(InvalidRequest,),
        seconds=30.0,
        close=renderer.close,
    )


def _seeds() -> list[bytes]:
    return [source.encode("utf-8", "replace") for source in SOURCES]


def change_template(rng: random.Random, data: bytes, words: Words) -> bytes:
    """The text of a template."""
    return change_text(rng, data, [*words, *WORDS])
