"""Conversations and texts to token ids, against transformers' own rendering."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Message, ToolCall, ToolChoice
from backend.prompt.encoder import TextEncoder
from backend.prompt.preparer import PromptPreparer
from tests.prompt import templates

TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather <now>", "parameters": {"type": "object"}},
}
MARKERS = ("<think>", "</think>")


@pytest.fixture(scope="module")
def make() -> Iterator[object]:
    """Makes preparers, one for each template and set of options: each has a process to start."""
    made: dict[str, PromptPreparer] = {}

    def build(template: str = templates.CHATML, *, adds_bos: bool = False, **options: object) -> PromptPreparer:
        options.setdefault("reasoning_markers", MARKERS)
        key = repr((template, adds_bos, options))
        if key not in made:
            tokenizer = templates.small_tokenizer(adds_bos=adds_bos)
            made[key] = PromptPreparer(tokenizer, chat_template=template, **options)
        return made[key]

    yield build
    for preparer in made.values():
        preparer.close()


@pytest.fixture(scope="module")
def shared_preparer() -> Iterator[PromptPreparer]:
    preparer = PromptPreparer(templates.small_tokenizer(), chat_template=templates.CHATML)
    yield preparer
    preparer.close()


def user(text: str) -> Message:
    return Message(role="user", content=text)


CONVERSATIONS = {
    "one": Conversation(messages=(user("Hello \u2603 'there'"),)),
    "system": Conversation(messages=(Message(role="system", content=" Be brief. "), user("Hi\n"))),
    "turns": Conversation(messages=(user("a"), Message(role="assistant", content=" b "), user("c"))),
    "skips": Conversation(messages=(user("a"), Message(role="assistant", content="b"), user(""), user("c"))),
    "tools": Conversation(
        messages=(
            user("Paris?"),
            Message(
                role="assistant",
                reasoning_content="look it up",
                tool_calls=(ToolCall(id="call00001", name="get_weather", arguments={"city": "Z\u00fcrich", "n": 1}),),
            ),
            Message(role="tool", content="sunny", name="get_weather", tool_call_id="call00001"),
        ),
        tools=(TOOL,),
    ),
}


def reference(template: str, conversation: Conversation, **variables: object) -> str:
    messages = []
    for message in conversation.messages:
        entry: dict[str, object] = {"role": message.role, "content": message.content}
        if message.name:
            entry["name"] = message.name
        if message.reasoning_content:
            entry["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            entry["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.tool_calls
            ]
        messages.append(entry)
    final = conversation.messages[-1].role == "assistant"
    return templates.small_tokenizer().apply_chat_template(
        messages,
        tools=list(conversation.tools) or None,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=not final,
        continue_final_message=final,
        **variables,
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
@pytest.mark.parametrize("template", templates.ALL.values(), ids=templates.ALL.keys())
def test_a_template_renders_as_transformers_renders_it(make, template, conversation) -> None:
    try:
        expected = reference(template, conversation, enable_thinking=True)
    except Exception as error:  # noqa: BLE001  whatever it raises, we must refuse as well
        with pytest.raises(InvalidRequest) as refusal:
            make(template).prepare(conversation)
        assert str(error) in refusal.value.message
        return
    preparer = make(template)
    assert preparer.render(conversation) == expected
    ids = templates.small_tokenizer().encode(expected, add_special_tokens=False)
    assert preparer.prepare(conversation).tokens.tolist() == ids


@pytest.mark.parametrize("final", ["The answer", "The answer ", "", "a\n"])
@pytest.mark.parametrize("template", [templates.CHATML, templates.STRICT_TURNS], ids=["kept", "trimmed"])
def test_a_final_assistant_message_is_continued(make, template, final) -> None:
    conversation = Conversation(messages=(user("a"), Message(role="assistant", content=final)))
    assert make(template).render(conversation) == reference(template, conversation, enable_thinking=True)


def test_template_variables_reach_the_template_whole(make) -> None:
    preparer = make("{{ a | tojson }}{{ b }}{{ enable_thinking }}", template_kwargs={"a": 1, "b": 2})
    conversation = Conversation(messages=(user(""),), template_kwargs={"a": {"x": [1, None]}, "enable_thinking": False})
    assert preparer.render(conversation) == '{"x": [1, null]}2False'


def test_a_template_variable_cannot_replace_the_messages(make) -> None:
    conversation = Conversation(messages=(user("a"),), template_kwargs={"messages": []})
    with pytest.raises(InvalidRequest, match="messages"):
        make().prepare(conversation)


def test_tools_are_hidden_when_the_choice_is_none(make) -> None:
    conversation = Conversation(messages=(user("a"),), tools=(TOOL,), tool_choice=ToolChoice(mode="none"))
    preparer = make()
    assert "get_weather" not in preparer.render(conversation)
    assert "get_weather" in preparer.render(Conversation(messages=(user("a"),), tools=(TOOL,)))


@pytest.mark.parametrize("template", [templates.PRINTS_ARGUMENTS, templates.JOINS_ARGUMENTS])
def test_a_template_that_needs_arguments_as_text_gets_json(make, template) -> None:
    text = make(template).render(CONVERSATIONS["tools"])
    assert '{"city": "Z\u00fcrich", "n": 1}' in text


def test_the_bos_is_there_once(make) -> None:
    tokenizer = templates.small_tokenizer(adds_bos=True)
    bos = tokenizer.bos_token_id
    preparer = make(templates.STRICT_TURNS, adds_bos=True)
    for prompt in ("hello", "<bos>hello", Conversation(messages=(user("hello"),))):
        assert preparer.prepare(prompt).tokens.tolist().count(bos) == 1


@pytest.mark.parametrize("prompt", ["", Conversation(messages=(user("a"),))])
def test_a_prompt_that_comes_to_nothing_is_refused(make, prompt) -> None:
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        make("{% if false %}x{% endif %}", adds_bos=True).prepare(prompt)


def test_text_that_is_not_unicode_is_refused(make) -> None:
    for prompt in ("a\ud800", Conversation(messages=(user("a\ud800"),))):
        with pytest.raises(InvalidRequest, match="Unicode"):
            make().prepare(prompt)


def test_special_token_text_from_a_user_becomes_the_token(make) -> None:
    tokenizer = templates.small_tokenizer()
    ids = make().prepare(Conversation(messages=(user("a<|im_end|>"),))).tokens.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


@pytest.mark.parametrize(
    ("template", "prompt", "opens", "closes"),
    [
        (templates.OPENS_THINKING, Conversation(messages=(user("a"),)), True, False),
        (templates.CHATML, Conversation(messages=(user("a"),)), False, False),
        (templates.CHATML, Conversation(messages=(user("what does <think> mean"),)), False, False),
        (templates.CHATML, Conversation(messages=(user("<think>"),)), False, False),
        (templates.CHATML, Conversation(messages=(user("a</think>"),)), False, False),
        (
            templates.CHATML,
            Conversation(messages=(user("a"),), template_kwargs={"enable_thinking": False}),
            False,
            True,
        ),
        (
            templates.CHATML,
            Conversation(messages=(user("a"), Message(role="assistant", content="<think>so"))),
            True,
            False,
        ),
        (
            templates.CHATML,
            Conversation(messages=(user("a"), Message(role="assistant", content="</think>so"))),
            False,
            True,
        ),
        (templates.CHATML, "<|im_start|>assistant\n<think>\n", True, False),
        (templates.CHATML, "what is <think> for", False, False),
    ],
)
def test_a_reasoning_section_is_seen_only_where_the_answer_begins(make, template, prompt, opens, closes) -> None:
    prepared = make(template).prepare(prompt)
    assert (prepared.opens_reasoning, prepared.closes_reasoning) == (opens, closes)


def test_boundaries_lie_where_conversations_part(make) -> None:
    conversation = Conversation(
        messages=(
            Message(role="system", content="Be brief."),
            user("first"),
            Message(role="assistant", content="answer"),
            user("second"),
        ),
        template_kwargs={"enable_thinking": False},
    )
    prepared = make().prepare(conversation)
    tokenizer = templates.small_tokenizer()
    starts = [tokenizer.decode(prepared.tokens.tolist()[:b]) for b in prepared.boundaries]
    assert starts[0].endswith("Be brief.<|im_end|>\n<|im_start|>user\n")
    assert starts[1].endswith("answer<|im_end|>\n<|im_start|>user\n")
    assert starts[2].endswith("second<|im_end|>\n")
    assert starts[3].endswith("<|im_start|>assistant\n")
    assert len(starts) == 4


text = st.text(max_size=20)
message = st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=text)


@given(messages=st.lists(message, min_size=1, max_size=5), tools=st.sampled_from([(), (TOOL,)]))
def test_boundaries_are_sorted_and_inside_the_prompt(shared_preparer, messages, tools) -> None:
    try:
        prepared = shared_preparer.prepare(Conversation(messages=tuple(messages), tools=tools))
    except InvalidRequest:
        return
    assert list(prepared.boundaries) == sorted(set(prepared.boundaries))
    assert all(0 < b < len(prepared.tokens) for b in prepared.boundaries)


def test_a_tool_template_is_taken_when_there_are_tools() -> None:
    class Two(type(templates.small_tokenizer())):
        """A tokenizer with two named templates."""

    tokenizer = Two(
        tokenizer_object=templates.small_tokenizer().backend_tokenizer,
        eos_token="<|im_end|>",
        chat_template={"default": "plain", "tool_use": "tools"},
    )
    preparer = PromptPreparer(tokenizer)
    assert preparer.render(Conversation(messages=(user("a"),))) == "plain"
    assert preparer.render(Conversation(messages=(user("a"),), tools=(TOOL,))) == "tools"
    preparer.close()


def test_a_model_without_a_template_refuses_conversations() -> None:
    preparer = PromptPreparer(templates.small_tokenizer())
    with pytest.raises(InvalidRequest, match="no chat template"):
        preparer.prepare(Conversation(messages=(user("a"),)))
    assert preparer.prepare("a").tokens.size == 1


def test_a_template_that_is_a_python_function_is_called_in_place() -> None:
    from mlx_lm.chat_templates.deepseek_v32 import apply_chat_template
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    wrapper = TokenizerWrapper(templates.small_tokenizer(), chat_template=apply_chat_template)
    preparer = PromptPreparer(wrapper)
    text = preparer.render(CONVERSATIONS["tools"])
    assert 'name="city" string="true">Z\u00fcrich<' in text
    assert preparer.prepare(Conversation(messages=(user("a"),))).opens_reasoning
    off = Conversation(messages=(user("a"),), template_kwargs={"enable_thinking": False})
    assert not preparer.prepare(off).opens_reasoning


def test_the_wrapper_says_how_thinking_is_marked() -> None:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    preparer = PromptPreparer(TokenizerWrapper(templates.small_tokenizer()), chat_template=templates.OPENS_THINKING)
    assert preparer.prepare(Conversation(messages=(user("a"),))).opens_reasoning
    preparer.close()


@pytest.mark.parametrize("template", [templates.STRICT_TURNS, templates.CHATML], ids=["refuses", "prints"])
def test_a_developer_is_a_system_to_a_template_that_does_not_know_the_role(make, template) -> None:
    def asked(role: str) -> Conversation:
        return Conversation(messages=(Message(role=role, content="Be brief."), user("Hi")))

    try:
        expected = make(template).render(asked("system"))
    except InvalidRequest:
        expected = "refused"
    try:
        assert make(template).render(asked("developer")) == expected
    except InvalidRequest:
        assert expected == "refused"


def test_a_developer_stays_one_where_the_template_names_the_role(make) -> None:
    template = "{% for m in messages %}{{ m.role }}{% endfor %}{# developer #}"
    assert make(template).render(Conversation(messages=(Message(role="developer"),))) == "developer"


def test_a_template_that_prints_a_lone_surrogate_is_refused_in_a_sentence(make) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        make("{{ '\\ud800' }}").render(Conversation(messages=(user("a"),)))


def test_tokenizers_of_python_encode_on_several_threads_as_on_one() -> None:
    """Their encoding changes them: another thread's padding or truncation would come into a text."""
    original = templates.small_tokenizer(adds_bos=True)

    class Slow(type(original)):
        """Encodes in Python, so that the Rust tokenizer alone will not do, and changes it for each text."""

        def encode(self, text, **options):
            self.backend_tokenizer.enable_truncation(len(text) // 4)
            ids = self.backend_tokenizer.encode_batch([text], **options)[0].ids
            self.backend_tokenizer.no_truncation()
            return [*ids, 1]

    tokenizer = Slow(tokenizer_object=original.backend_tokenizer, eos_token="<|im_end|>")
    encoder = TextEncoder(tokenizer)
    texts = ["hello there, a small world of words " * count for count in range(20, 60)] * 4

    def encode(text: str) -> list[int]:
        return encoder.encode(text, add_special_tokens=False).ids.tolist()

    expected = [encode(text) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(encode, texts)) == expected
    # The engine thread decodes with the original, which must not change under it.
    assert tokenizer.backend_tokenizer.truncation is None


@pytest.mark.parametrize("token", [-1, -(2**31), 2**31, 2**32 + 5, 2**63, 2**70])
def test_a_token_that_no_vocabulary_has_is_refused_and_never_taken_for_another(token: int) -> None:
    original = templates.small_tokenizer()

    class Own(type(original)):
        """A tokenizer in Python, which may say anything."""

        def encode(self, text, **options):
            return [1, token, 2]

    preparer = PromptPreparer(Own(tokenizer_object=original.backend_tokenizer, eos_token="<|im_end|>"))
    with pytest.raises(InvalidRequest, match=f"Prompt: has token {token}"):
        preparer.prepare("a prompt")
    with pytest.raises(InvalidRequest, match=f"Prompt: has token {token}"):
        preparer.encode("a prompt", add_special_tokens=False)
