"""What templates need that clients do not send, and what clients send that templates have no word for."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Json, Message, ToolCall
from backend.prompt.chat_template import ChatTemplate, TemplateSettings
from backend.prompt.renderer import ProcessRenderer, RenderingStopped
from backend.prompt.rendering import Rendered, RenderJob

Make = Callable[..., ChatTemplate]
CALL = ToolCall(id="c1", name="f", arguments={"a": 1}, text='{"a":1}')


def each(what: str, condition: str = "") -> str:
    return "{% for m in messages " + condition + " %}<{{ m.role }}>" + what + "{% endfor %}"


ROLES = each("{{ m.content }}")
# As models that see images: content is a list of parts.
PARTS = each("{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}")
FIRST_PART = each("{{ m.content[0].text + '' }}")
# As gpt-oss, Seed-OSS and Muse Glimmer.
DESCRIBES = "{% for t in tools %}{{ t.function.name + ': ' + t.function.description }}{% endfor %}" + ROLES
PROPERTIES = "{% for k, p in t.function.parameters.properties.items() %}{{ k }}{% endfor %}"
LISTS = "{% for t in tools %}" + PROPERTIES + "{% endfor %}" + ROLES
# As gpt-oss.
ONE_OF_BOTH = ROLES + (
    "{% for m in messages if m.tool_calls %}{% if m.content and m.thinking %}"
    "{{ raise_exception('not both') }}{% endif %}[{{ m.thinking }}]{% endfor %}"
)
# As Qwen 3.5 refuses, and gpt-oss drops.
ONE_SYSTEM = each(
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('first') }}{% endif %}{{ m.content }}"
)
FIRST_SYSTEM = "<system>{{ messages[0].content }}" + each("{{ m.content }}", "if m.role not in ('system', 'developer')")


def said(*messages: tuple[str, str], **fields: Any) -> Conversation:
    return Conversation(messages=tuple(Message(role=role, content=content) for role, content in messages), **fields)


def tool(**function: Json) -> dict[str, Json]:
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize("source", [PARTS, FIRST_PART])
def test_a_template_that_reads_parts_is_given_parts(chat_template: Make, source: str) -> None:
    """As a text, the message would be nothing to it, or a failure."""
    talk = said(("system", "be brief"), ("user", "hello"), ("assistant", ""), ("user", "there"))
    rendered = chat_template(source).render(talk)
    assert rendered.text == "<system>be brief<user>hello<assistant><user>there"
    # Where the last message differs, where it ends, and where the next one begins.
    assert rendered.shared[-1] == len(rendered.text)


def test_an_answer_in_parts_is_continued(chat_template: Make) -> None:
    talk = said(("user", "hello"), ("assistant", "So the "))
    assert chat_template(PARTS + "</s>").render(talk).text == "<user>hello<assistant>So the "


def test_a_template_that_takes_either_is_given_text(chat_template: Make) -> None:
    source = "{% for m in messages %}{{ m.content if m.content is string else m.content[0].type }}{% endfor %}"
    assert chat_template(source).render(said(("user", "hello"))).text == "hello"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (ROLES, "<system>be brief<user>hello"),
        (ROLES + "{# The developer preamble of Command R. #}", "<system>be brief<user>hello"),
        (ROLES + "{% if messages[0].role == 'developer' %}!{% endif %}", "<developer>be brief<user>hello!"),
        ("{% for m in messages if m.role in ['user', 'system'] %}{{ m.content }}{% endfor %}", "be briefhello"),
        (
            "{% set known = 'developer' %}{% for m in messages if m.role != known %}{{ m.content }}{% endfor %}",
            "be briefhello",
        ),
    ],
    ids=["unheard of", "in a text", "known", "left out", "known and left out"],
)
def test_a_developer_is_heard_by_every_template(chat_template: Make, source: str, expected: str) -> None:
    assert chat_template(source).render(said(("developer", "be brief"), ("user", "hello"))).text == expected


@pytest.mark.parametrize("source", [ONE_SYSTEM, FIRST_SYSTEM], ids=["refuses a second", "drops a second"])
@pytest.mark.parametrize("second", ["system", "developer"])
def test_no_system_message_at_the_beginning_is_lost(chat_template: Make, source: str, second: str) -> None:
    talk = said(("system", "be brief"), (second, "be kind"), ("user", "hello"))
    assert chat_template(source).render(talk).text == "<system>be brief\n\nbe kind<user>hello"


def test_system_messages_stay_apart_where_the_template_takes_them(chat_template: Make) -> None:
    talk = said(("system", "be brief"), ("system", "be kind"), ("user", "hello"))
    assert chat_template(ROLES).render(talk).text == "<system>be brief<system>be kind<user>hello"


@pytest.mark.parametrize(("source", "expected"), [(DESCRIBES, "f: "), (LISTS, "")])
@pytest.mark.parametrize("function", [{}, {"description": ""}, {"parameters": {}}, {"parameters": {"type": "object"}}])
def test_a_bare_tool_is_filled_up_where_the_template_fails_without(
    chat_template: Make, source: str, expected: str, function: dict[str, Json]
) -> None:
    talk = said(("user", "hello"), tools=(tool(**function),))
    assert chat_template(source).render(talk).text == expected + "<user>hello"


def test_a_bare_tool_stays_bare_where_the_template_takes_it(chat_template: Make) -> None:
    source = "{{ tools | tojson }}" + ROLES
    assert (
        chat_template(source)
        .render(said(("user", "a"), tools=(tool(),)))
        .text.startswith('[{"type": "function", "function": {"name": "f"}}]')
    )


@pytest.mark.parametrize("content", ["I look.", ""])
def test_reasoning_goes_before_content_where_the_template_refuses_both(chat_template: Make, content: str) -> None:
    call = Message(role="assistant", content=content, reasoning_content="why", tool_calls=(CALL,))
    answer = Message(role="tool", content="sunny", tool_call_id="c1")
    both = Conversation(messages=(Message(role="user", content="hello"), call, answer))
    assert chat_template(ONE_OF_BOTH).render(both).text == "<user>hello<assistant><tool>sunny[why]"
    assert chat_template(ROLES).render(both).text == f"<user>hello<assistant>{content}<tool>sunny"


def test_a_template_that_prints_arguments_prints_the_words_of_the_model(chat_template: Make) -> None:
    """Not the same in other spaces, which the prompt cache would not know again."""
    source = ROLES + "{% for m in messages if m.tool_calls %}{{ m.tool_calls[0].function.arguments }}{% endfor %}"
    talk = (Message(role="user", content="?"), Message(role="assistant", tool_calls=(CALL,)), Message(role="tool"))
    assert chat_template(source).render(Conversation(messages=talk)).text.endswith('{"a":1}')


def test_a_template_that_takes_nothing_says_why_each_time(chat_template: Make) -> None:
    template = chat_template("{{ raise_exception('closed on Sundays') }}")
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="closed on Sundays"):
            template.render(said(("user", "hello")))


def test_a_template_that_prints_its_content_upside_down_is_given_text(chat_template: Make) -> None:
    """Parts would come out as Python prints them."""
    source = "{% for m in messages %}{{ m.content if m.content is not string else m.content | reverse }}{% endfor %}"
    assert chat_template(source).render(said(("user", "hello"))).text == "olleh"


def test_nothing_is_learned_from_a_rendering_that_was_stopped(renderer: ProcessRenderer) -> None:
    """Such as the first one on a machine that is busy."""

    class SlowAtFirst(ProcessRenderer):
        slow = True

        def render(self, job: RenderJob) -> Rendered:
            if self.slow:
                self.slow = False
                raise RenderingStopped("Messages", "the chat template took over 5 s")
            return renderer.render(job)

    source = "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text + '!' }}{% endfor %}"
    settings = TemplateSettings(sources={"default": source}, special_tokens={}, variables={})
    template = ChatTemplate(settings, SlowAtFirst())
    with pytest.raises(InvalidRequest, match="took over"):
        template.render(said(("user", "hello")))
    assert template.render(said(("user", "hello"))).text == "hello"


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("value", [True, False])
def test_thinking_is_switched_by_either_name(chat_template: Make, name: str, value: bool) -> None:
    source = ROLES + "{{ " + name + " }}"
    talk = said(("user", ""), template_kwargs={"enable_thinking": value})
    assert chat_template(source).render(talk).text == f"<user>{value}"


def test_a_client_that_says_both_names_of_thinking_is_taken_at_its_word(chat_template: Make) -> None:
    talk = said(("user", ""), template_kwargs={"enable_thinking": True, "thinking": False})
    assert chat_template(ROLES + "{{ enable_thinking }}{{ thinking }}").render(talk).text == "<user>TrueFalse"


def test_each_of_several_templates_is_for_its_requests(chat_template: Make) -> None:
    template = chat_template(sources={name: name + ROLES for name in ("default", "tool_use", "rag")})
    documents: Json = [{"title": "t", "text": "x"}]

    def rendered(**fields: Any) -> str:
        return template.render(said(("user", ""), **fields)).text.removesuffix("<user>")

    assert rendered() == "default"
    assert rendered(tools=(tool(),)) == "tool_use"
    assert rendered(template_kwargs={"documents": documents}) == "rag"
    assert rendered(tools=(tool(),), template_kwargs={"documents": documents}) == "tool_use"
    assert rendered(template_kwargs={"documents": []}) == "default"


def test_templates_without_a_default_are_named(chat_template: Make) -> None:
    with pytest.raises(InvalidRequest, match="no chat template for this, only rag, tool_use"):
        chat_template(sources={"tool_use": "a", "rag": "b"}).render(said(("user", "")))


def test_documents_are_the_template_s(chat_template: Make) -> None:
    source = "{% for d in documents or [] %}{{ d.title }}{% endfor %}" + ROLES
    talk = said(("user", ""), template_kwargs={"documents": [{"title": "a"}, {"title": "b"}]})
    assert chat_template(source).render(talk).text == "ab<user>"


def test_a_last_answer_may_be_followed_by_another(chat_template: Make) -> None:
    source = ROLES + "{{ '<next>' if add_generation_prompt else '</s>' }}{{ continue_final_message }}"
    talk = said(("user", "a"), ("assistant", "b"), template_kwargs={"continue_final_message": False})
    assert chat_template(source).render(talk).text == "<user>a<assistant>b<next>"


def test_a_function_is_not_given_what_it_does_not_take(chat_template: Make) -> None:
    def inner(messages: list[dict[str, Any]], thinking: bool = True) -> str:
        return f"{messages[0]['content']} {thinking}"

    def function(messages: list[dict[str, Any]], add_generation_prompt: bool = False, **kwargs: Any) -> str:
        return inner(messages, **kwargs)

    template = chat_template(function=function, thinking_variable="thinking")
    # `chat_template` shares a process, which renders no functions.
    template = ChatTemplate(template._settings)
    kwargs: dict[str, Json] = {"enable_thinking": False, "reasoning_effort": "low", "documents": []}
    assert template.render(said(("user", "hello"), template_kwargs=kwargs)).text == "hello False"


def test_an_error_of_a_function_s_own_is_told(chat_template: Make) -> None:
    def function(messages: list[dict[str, Any]], **_: Any) -> str:
        return messages[0]["content"] + 1

    template = ChatTemplate(chat_template(function=function)._settings)
    with pytest.raises(InvalidRequest, match="TypeError"):
        template.render(said(("user", "hello")))
