"""PredictOptions into GenerationRequest."""

import json

import pytest

from backend.config import CacheConfig, ModelConfig
from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, GenerationRequest, Grammar, Message, ToolCall, ToolChoice
from backend.pb import backend_pb2 as pb
from backend.translate.requests import deadline_of, generation_request

MODEL = ModelConfig(identity="m", candidates=("m",))
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
USER = pb.Message(role="user", content="hi")


def translate(model: ModelConfig = MODEL, **fields) -> GenerationRequest:
    return generation_request(pb.PredictOptions(**fields), model, request_id="r", deadline=None)


def chat(model: ModelConfig = MODEL, **fields) -> Conversation:
    fields = {"Messages": [USER], "UseTokenizerTemplate": True, **fields}
    prompt = translate(model, **fields).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def refusal(**fields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        translate(**{"Prompt": "p", **fields})
    return refused.value


def test_messages_win_over_a_prompt_where_the_template_is_asked_for() -> None:
    assert chat(Prompt="raw").messages == (Message(role="user", content="hi"),)


def test_the_raw_prompt_is_used_without_the_flag_or_without_messages() -> None:
    assert translate(Prompt="raw", Messages=[USER]).prompt == "raw"
    assert translate(Prompt="raw", UseTokenizerTemplate=True).prompt == "raw"


def test_an_empty_prompt_is_refused_and_says_what_messages_need() -> None:
    assert "prompt is empty" in refusal(Prompt="").message
    assert "UseTokenizerTemplate" in refusal(Prompt="", Messages=[USER]).message


@pytest.mark.parametrize("field", ["Images", "Videos", "Audios"])
def test_media_are_refused_and_never_answered_without_them(field: str) -> None:
    assert refusal(**{field: ["AAAA"]}).field == field


def test_an_empty_stop_string_is_ignored_and_a_repeated_one_counts_once() -> None:
    assert translate(Prompt="p", StopPrompts=["", "b", "a", "b"]).stop == ("b", "a")


def test_too_many_or_too_long_stop_strings_are_refused() -> None:
    assert refusal(StopPrompts=[str(n) for n in range(65)]).field == "StopPrompts"
    assert refusal(StopPrompts=["a" * (1 << 20)]).field == "StopPrompts"


def test_either_logprobs_field_turns_them_on() -> None:
    assert translate(Prompt="p").logprobs is None
    assert translate(Prompt="p", Logprobs=1, TopLogprobs=1).logprobs == 1
    assert translate(Prompt="p", TopLogprobs=5).logprobs == 5
    assert translate(Prompt="p", Logprobs=3).logprobs == 3
    assert refusal(TopLogprobs=21).field == "TopLogprobs"
    assert refusal(Logprobs=-1).field == "Logprobs"


def test_messages_carry_every_field_and_decoded_tool_calls() -> None:
    calls = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}]
    assistant = pb.Message(role="assistant", reasoning_content="why", tool_calls=json.dumps(calls))
    result = pb.Message(role="tool", content="22", name="f", tool_call_id="c1")
    assert chat(Messages=[USER, assistant, result]).messages[1:] == (
        Message(
            role="assistant",
            reasoning_content="why",
            tool_calls=(ToolCall(id="c1", name="f", arguments={"a": [1]}, text='{"a": [1]}'),),
        ),
        Message(role="tool", content="22", name="f", tool_call_id="c1"),
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (None, {}),
        ("null", {}),
        ("{}", {}),
        ({"a": 1}, {"a": 1}),
        ("not json", "not json"),
        ('{"a": NaN}', '{"a": NaN}'),
    ],
)
def test_arguments_in_the_history_that_are_no_json_stay_text(arguments, expected) -> None:
    calls = json.dumps([{"function": {"name": "f", "arguments": arguments}}])
    message = chat(Messages=[pb.Message(role="assistant", tool_calls=calls)]).messages[0]
    assert message.tool_calls[0].arguments == expected
    assert message.tool_calls[0].text in ("", expected)


def test_what_a_host_writes_as_null_is_not_there() -> None:
    parameters = {"type": "object", "properties": {"a": {"default": None}}, "required": None}
    function = {"name": "f", "description": None, "strict": None, "parameters": parameters}
    tools = [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "parameters": None}},
    ]
    assert [tool["function"] for tool in chat(Tools=json.dumps(tools)).tools] == [
        {"name": "f", "parameters": {"type": "object", "properties": {"a": {"default": None}}}},
        {"name": "f"},
    ]


BROKEN_JSON = ["{", "[" * 100_000, "9" * 5000, "NaN", "1e400", '"\\ud800"', "[" * 70 + "]" * 70]


@pytest.mark.parametrize("text", [*BROKEN_JSON, "{}", "[1]", '[{"function": {}}]', '[{"function": {"name": ""}}]'])
def test_tools_that_are_not_tools_are_refused(text: str) -> None:
    assert refusal(Tools=text).field.startswith("Tools")


@pytest.mark.parametrize("text", [*BROKEN_JSON, "{}", "[1]", '[{"function": 1}]'])
def test_tool_calls_that_are_not_calls_are_refused(text: str) -> None:
    error = refusal(Messages=[pb.Message(role="assistant", tool_calls=text)], UseTokenizerTemplate=True)
    assert error.field == "Messages[0].tool_calls"


def test_tools_nested_deeper_than_the_limit_are_refused() -> None:
    def nested(depth: int) -> str:
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        return json.dumps([tool]).replace("{}", '{"a":' * depth + "1" + "}" * depth)

    assert chat(Tools=nested(50)).tools
    assert "nested deeper" in refusal(Tools=nested(70)).message


def test_no_tools_may_be_written_in_three_ways() -> None:
    for text in ("", "null", "[]"):
        assert chat(Tools=text).tools == ()


def test_more_tools_than_the_limit_are_refused() -> None:
    assert "limit" in refusal(Tools=json.dumps([TOOL] * 513)).message


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("", ToolChoice()),
        ("auto", ToolChoice()),
        ('"auto"', ToolChoice()),
        ("none", ToolChoice(mode="none")),
        ('"none"', ToolChoice(mode="none")),
        ('"required"', ToolChoice(mode="required")),
        ('{"type": "auto"}', ToolChoice()),
        ("any", ToolChoice(mode="required")),
        ('{"type": "any"}', ToolChoice(mode="required")),
        ('{"type": "tool", "name": "get_weather"}', ToolChoice(mode="function", function="get_weather")),
        ("get_weather", ToolChoice(mode="function", function="get_weather")),
        (
            '{"type": "function", "function": {"name": "get_weather"}}',
            ToolChoice(mode="function", function="get_weather"),
        ),
    ],
)
def test_a_tool_choice_is_read_with_and_without_quotes(text: str, choice: ToolChoice) -> None:
    assert chat(Tools=json.dumps([TOOL]), ToolChoice=text).tool_choice == choice


@pytest.mark.parametrize(
    "text", ["sometimes", '"sometimes"', "{", "[]", '{"type": "x"}', '{"function": {"name": "unknown"}}', '{"name": 1}']
)
def test_a_tool_choice_that_is_none_of_these_is_refused(text: str) -> None:
    assert refusal(Tools=json.dumps([TOOL]), ToolChoice=text).field == "ToolChoice"


ALLOWED = {"type": "function", "function": {"name": "get_weather"}}
OTHER = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize(
    "choice",
    [
        {"allowed_tools": {"tools": [ALLOWED]}},  # Chat Completions
        {"tools": [{"type": "function", "name": "get_weather"}]},  # Responses
    ],
)
def test_allowed_tools_is_its_mode_over_those_tools(mode: str, choice: dict) -> None:
    inner = choice.get("allowed_tools", choice)
    inner["mode"] = mode
    asked = chat(Tools=json.dumps([TOOL, OTHER]), ToolChoice=json.dumps({"type": "allowed_tools", **choice}))
    assert asked.tool_choice == ToolChoice(mode=mode)
    assert [tool["function"]["name"] for tool in asked.tools] == ["get_weather"]


@pytest.mark.parametrize(
    "inner", [{}, {"tools": []}, {"tools": [{"name": "unknown"}]}, {"tools": [ALLOWED], "mode": "none"}, {"tools": "x"}]
)
def test_allowed_tools_that_allow_nothing_known_are_refused(inner: dict) -> None:
    text = json.dumps({"type": "allowed_tools", "allowed_tools": inner})
    assert refusal(Tools=json.dumps([TOOL]), ToolChoice=text).field == "ToolChoice"


def test_the_calls_of_all_messages_have_one_limit_in_bytes_and_one_in_values() -> None:
    def calls(arguments: str) -> list[pb.Message]:
        text = json.dumps([{"function": {"name": "f", "arguments": arguments}}])
        return [pb.Message(role="assistant", tool_calls=text)] * 5

    long = json.dumps({"text": "a" * 900_000})
    assert "bytes of tool_calls" in refusal(UseTokenizerTemplate=True, Messages=calls(long)).message
    assert "values" in refusal(UseTokenizerTemplate=True, Messages=calls(json.dumps([[0]] * 7000))).message
    assert len(chat(Messages=calls(json.dumps([[0]] * 3000))).messages) == 5


def test_a_limit_in_bytes_counts_bytes() -> None:
    assert "bytes" in refusal(Tools=json.dumps([TOOL, "\u2603" * 400_000], ensure_ascii=False)).message


def test_a_required_call_without_tools_is_refused() -> None:
    assert refusal(ToolChoice="required").field == "ToolChoice"


def test_template_arguments_come_from_the_blob_then_single_keys_then_the_model() -> None:
    model = ModelConfig(identity="m", candidates=("m",), template_kwargs={"a": 1, "b": 1, "enable_thinking": True})
    metadata = {
        "enable_thinking": "false",
        "reasoning_effort": "low",
        "chat_template_kwargs": '{"b": {"c": 2}, "reasoning_effort": "high"}',
        "trace": "ignored",
    }
    assert chat(model, Metadata=metadata).template_kwargs == {
        "a": 1,
        "b": {"c": 2},
        "enable_thinking": False,
        "reasoning_effort": "high",
    }


BROKEN_KWARGS = ['{"documents": {}}', '{"documents": ["text"]}', '{"continue_final_message": "no"}']


@pytest.mark.parametrize(
    "blob", ["[]", "{", '{"a": NaN}', '{"chat_template": "x"}', '{"messages": []}', *BROKEN_KWARGS]
)
def test_a_template_blob_that_is_no_object_or_replaces_the_template_is_refused(blob: str) -> None:
    error = refusal(Messages=[USER], UseTokenizerTemplate=True, Metadata={"chat_template_kwargs": blob})
    assert error.field == "Metadata[chat_template_kwargs]"


@pytest.mark.parametrize(("text", "priority"), [("", 0), ("10", 10), (" -10 ", -10), ("+3", 3), ("-0", 0)])
def test_a_priority_is_a_whole_number(text: str, priority: int) -> None:
    assert translate(Prompt="p", Metadata={"priority": text}).priority == priority


@pytest.mark.parametrize("text", ["11", "-11", "1.0", "high", "--1", "1 0", "\u0663", "9" * 5000])
def test_what_is_no_priority_is_refused(text: str) -> None:
    error = refusal(Metadata={"priority": text})
    assert (error.field, error.message) == (
        "Metadata[priority]",
        "Metadata[priority]: must be a whole number in [-10, 10]",
    )


def test_a_grammar_is_gbnf_unless_metadata_names_another_dialect() -> None:
    assert translate(Prompt="p", Grammar='root ::= "a"').grammar == Grammar(kind="gbnf", text='root ::= "a"')
    assert translate(Prompt="p", Metadata={"regex": "a+"}).grammar == Grammar(kind="regex", text="a+")
    assert translate(Prompt="p", Metadata={"lark": 'start: "a"'}).grammar == Grammar(kind="lark", text='start: "a"')
    assert translate(Prompt="p", Metadata={"json_schema": "{}"}).grammar == Grammar(kind="json_schema", text="{}")
    assert translate(Prompt="p", Grammar=" \n", Metadata={"regex": ""}).grammar is None


def test_two_grammars_a_huge_one_and_a_schema_that_is_no_json_are_refused() -> None:
    assert refusal(Grammar="root ::= 1", Metadata={"regex": "a"}).field == "Grammar"
    assert refusal(Metadata={"regex": "a", "lark": "b"}).field == "Grammar"
    assert refusal(Grammar="a" * (1 << 20 | 1)).field == "Grammar"
    assert refusal(Metadata={"json_schema": "{"}).field == "Metadata[json_schema]"


def test_the_cache_fields_come_from_the_request_and_the_models_options() -> None:
    model = ModelConfig(identity="m", candidates=("m",), cache=CacheConfig(keep_answers=False))
    request = translate(model, Prompt="p", PromptCacheRO=True, PromptCacheAll=True)
    assert (request.cache_read_only, request.cache_answer) == (True, False)
    assert translate(Prompt="p").cache_answer


def test_a_request_may_say_how_many_of_its_tokens_are_guessed_at_most() -> None:
    assert translate(Prompt="p").max_draft is None
    assert (translate(Prompt="p", NDraft=0).max_draft, translate(Prompt="p", NDraft=3).max_draft) == (None, 3)
    assert refusal(Prompt="p", NDraft=-1).field == "NDraft"


def test_a_deadline_is_a_point_on_our_clock_and_infinity_is_none() -> None:
    assert deadline_of(2.0, now=10.0) == 12.0
    assert deadline_of(None, now=10.0) is None
    assert deadline_of(float("inf"), now=10.0) is None
