"""Which format a model gets: what mlx-lm would take, unless it is overridden."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper, _infer_thinking, _infer_tool_parser
from mlx_lm.tool_parsers import kimi_k2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from backend.core.call_shape import Fixed
from backend.output import NotForceable, OutputFormat, PlainParser, TokenTable
from backend.output.choice import XTML_TOKENS, choose_calls, choose_reasoning
from backend.output.formats import formats
from tests.output.text.test_token_table import BYTE_LEVEL

TEMPLATES = {
    "minimax_m2": "<minimax:tool_call>",
    "gemma4": "<|tool_call>x<tool_call|>",
    "function_gemma": "<start_function_call>",
    "longcat": "<longcat_tool_call>",
    "glm47": "<tool_call>{{ tool_call.name }}<arg_key>",
    "pythonic": "<|tool_list_start|>",
    "qwen3_coder": "<tool_call>\n<function=",
    "kimi_k2": "<|tool_calls_section_begin|>",
    "minicpm5": '<function name="x"><param name="y">',
    "mistral": "[TOOL_CALLS]",
    "muse_spark": "<atem:function_calls>",
    "json_tools": '<tool_call>{"name": {{ tool_call.name }}}',
    None: "nothing",
}


class FakeTokenizer:
    """As much of a tokenizer as the choice reads."""

    def __init__(self, template: Any = None, vocab: tuple[str, ...] = (), **declared: Any) -> None:
        self.chat_template = template
        self.init_kwargs = declared
        self._vocab = {token: i for i, token in enumerate(vocab)}

    def get_vocab(self) -> dict[str, int]:
        return self._vocab

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tool_format_is_the_one_mlx_lm_infers_from_the_template(name: str | None):
    tokenizer = FakeTokenizer(TEMPLATES[name])
    assert _infer_tool_parser(tokenizer) == name
    assert OutputFormat.choose(tokenizer).format_type == (name or "")


# Signs of formats that mlx-lm does not know, as their templates have them.
OTHERS = {
    "deepseek_v3": "{{ '<\uff5ctool\u2581calls\u2581begin\uff5c>' }}",
    "deepseek_v32": "<{{ dsml_token }}invoke name=> {%- set dsml_token = '\uff5cDSML\uff5c' %}",
    "step3": "<\uff5ctool_calls_begin\uff5c>",
    "hy3": "<tool_calls>\n<tool_call>{{ tool_call.name }}<tool_sep>\n<arg_key>",
    "seed_oss": "<seed:tool_call>\n<function=",
    "hunyuan": "<|extra_0|><tool_calls>[{{ call }}]</tool_calls><tool_response>",
    "jamba": "<tool_calls>[{{ call }}]</tool_calls>",
    "cohere": '<|START_ACTION|>[{"tool_name": {{ tc.function.name }}}]<|END_ACTION|>',
    "nemotron": "<TOOLCALL>[{{ fn.name }}]</TOOLCALL>",
    "olmo3": "<function_calls>\n{{ tool_call.name }}(\n</function_calls>",
    "internlm": "<|action_start|><|plugin|>",
    "apertus": "<|tools_prefix|>[",
    "phi4_mini": "<|tool|>{{ tools }}<|/tool|>",
    "granite": "<|tool_call|>{{ tool_call.name }}",
    "ernie45": "<tool_call>{{ tool_call.name }}</tool_call><response>",
    "functionary": "<function={{ tool_call.name }}>{}</function>",
    "llama4": "<|header_start|>ipython{{ tool_call.name }}",
    "llama3_json": 'Environment: ipython {{ tool_call.name }} "parameters": ',
    "xlam": '[{"name": "tool_call_name", "arguments": {}}]',
}

# What mlx-lm takes those for that share a tag with one that it knows.
MISTAKEN_FOR = {"ernie45": "json_tools", "hy3": "glm47"}


@pytest.mark.parametrize("name", OTHERS)
def test_formats_that_mlx_lm_does_not_know_are_told_by_their_templates(name: str):
    assert _infer_tool_parser(FakeTokenizer(OTHERS[name])) in (None, MISTAKEN_FOR.get(name))
    assert OutputFormat.choose(FakeTokenizer(OTHERS[name])).format_type == name


def test_each_format_has_a_sign_in_a_template_or_a_reason_for_none():
    assert set(formats()) - TEMPLATES.keys() - OTHERS.keys() == {
        "laguna",  # its checkpoints name it
        "kimi_k3",  # told by its vocabulary
        "harmony",  # has a test of its own
    }


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<tool_call>\n{'name': , 'arguments': }\n</tool_call>", "json_tools"),  # no history of calls is rendered
        ("<function=example>\n<parameter=k>", "qwen3_coder"),  # without the outer tag
        ("functools[", "phi4_mini"),
        ('{"name": function name, "parameters": dictionary} <|python_tag|>', "llama3_json"),
        ("<|python_start|>[{{ call }}]<|python_end|>", "llama4"),
        ("<tool_calls>x</tool_calls><answer>", "hunyuan"),
    ],
)
def test_other_signs_of_formats(template: str, name: str):
    assert OutputFormat.choose(FakeTokenizer(template)).format_type == name


def test_llama_4_is_forced_as_its_template_says():
    tools = [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}]
    for template, begin in (
        ("<|python_start|>", "[f("),
        ('<|python_start|>{"name": function name, "parameters": dictionary of', '{"name": "f", "parameters": '),
    ):
        chosen = OutputFormat.choose(FakeTokenizer(template))
        (call,), (section,) = chosen.forced_calls(tools), chosen.call_sections
        own = "".join(part.text for part in call.shape if isinstance(part, Fixed))
        assert (section.begin + own).startswith(begin)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("deepseek_v3", ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>")),
        ("step3", ("<\uff5ctool_calls_begin\uff5c>", "<\uff5ctool_calls_end\uff5c>")),
        ("seed_oss", ("<seed:tool_call>", "</seed:tool_call>")),
        ("deepseek_v32", ("\uff5cDSML\uff5c",)),
        ("cohere", ("<|START_ACTION|>", "<|END_ACTION|>")),
        ("internlm", ("<|action_start|>", "<|action_end|>", "<|plugin|>")),
        ("apertus", ("<|tools_prefix|>", "<|tools_suffix|>")),
        ("phi4_mini", ("<|tool_call|>", "<|/tool_call|>")),
    ],
)
def test_formats_that_mlx_lm_does_not_know_are_told_by_their_tokens(name: str, tokens: tuple[str, ...]):
    assert choose_calls(tokens, "") == name
    assert choose_calls(tokens[1:], "") is None


@pytest.mark.parametrize("vocab", [XTML_TOKENS, ("<|tool_call_start|>", "<|tool_call_end|>"), ()])
def test_the_tool_format_is_the_one_mlx_lm_infers_from_the_vocabulary(vocab: tuple[str, ...]):
    assert choose_calls(vocab, "") == _infer_tool_parser(FakeTokenizer("", vocab))


@pytest.mark.parametrize(
    "vocab",
    [
        ("<think>", "</think>"),
        ("<longcat_think>", "</longcat_think>"),
        ("<|think:start|>", "<|think:end|>"),
        ("<|channel>", "<channel|>"),
        XTML_TOKENS,
        ("<think>",),
    ],
)
def test_the_reasoning_markers_are_those_mlx_lm_infers(vocab: tuple[str, ...]):
    start, end, *_ = _infer_thinking(FakeTokenizer("", vocab))
    assert choose_reasoning(vocab, "") == ((start, end) if start else None)


def test_reasoning_markers_may_stand_in_the_template_alone():
    chosen = OutputFormat.choose(FakeTokenizer("{{ '<think>' }}...{{ '</think>' }}"))
    assert (chosen.reasoning_start, chosen.reasoning_end) == ("<think>", "</think>")


def test_gpt_oss_is_recognised_by_its_channels():
    template = "<|start|>assistant<|channel|>final<|message|>"
    chosen = OutputFormat.choose(FakeTokenizer(template))
    assert chosen.format_type == "harmony"
    assert (chosen.reasoning_start, chosen.reasoning_end) == ("<|channel|>analysis<|message|>", "<|end|>")
    assert chosen.tool_call_start == "<|channel|>commentary to="


def test_a_checkpoint_that_names_its_parser_is_believed():
    assert OutputFormat.choose(FakeTokenizer("", tool_parser_type="laguna")).format_type == "laguna"


def test_mlx_lms_wrapper_is_believed():
    wrapper = SimpleNamespace(
        chat_template="", get_vocab=dict, tool_parser=kimi_k2.parse_tool_call, think_start="<a>", think_end="<b>"
    )
    chosen = OutputFormat.choose(wrapper)
    assert (chosen.format_type, chosen.reasoning_start, chosen.reasoning_end) == ("kimi_k2", "<a>", "<b>")


def test_markers_in_a_real_vocabulary_are_found():
    tokenizer = Tokenizer(models.BPE({"<think>": 0, "</think>": 1, "a": 2}, []))
    chosen = OutputFormat.choose(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert (chosen.reasoning_start, chosen.format_type) == ("<think>", "")


def test_overrides_win_and_unknown_names_change_nothing():
    tokenizer = FakeTokenizer(TEMPLATES["mistral"], ("<think>", "</think>"))
    assert OutputFormat.choose(tokenizer, tool_parser="Qwen3-Coder").format_type == "qwen3_coder"
    assert OutputFormat.choose(tokenizer, tool_parser="hermes").format_type == "json_tools"
    assert OutputFormat.choose(tokenizer, tool_parser="made_up").format_type == "mistral"
    assert OutputFormat.choose(tokenizer, tool_parser="none").format_type == ""
    assert OutputFormat.choose(tokenizer, reasoning_parser="mistral").reasoning_start == "[THINK]"
    assert OutputFormat.choose(tokenizer, reasoning_parser="made_up").reasoning_start == "<think>"
    assert OutputFormat.choose(tokenizer, reasoning_parser="none").reasoning_start == ""


def test_gpt_oss_without_tool_parsing_still_has_channels():
    chosen = OutputFormat.choose(FakeTokenizer("<|start|><|channel|><|message|>"), tool_parser="none")
    parser = chosen.parser(opens_reasoning=False)
    piece = parser.feed("<|channel|>commentary to=functions.f<|message|>{}<|call|>") + parser.finish()
    assert (piece.content, piece.tool_calls) == ("{}", ())
    with pytest.raises(NotForceable, match="turned off"):
        chosen.forced_calls([{"function": {"name": "f"}}])


def test_several_named_templates_are_read_together():
    chosen = OutputFormat.choose(FakeTokenizer({"default": "x", "tool_use": TEMPLATES["longcat"]}))
    assert chosen.format_type == "longcat"


def test_a_model_without_markers_gets_a_parser_that_changes_nothing():
    assert isinstance(OutputFormat.choose(FakeTokenizer()).parser(opens_reasoning=False), PlainParser)


def test_mlx_lms_wrapper_and_its_tokenizer_give_the_same_table():
    wrapper = TokenizerWrapper(BYTE_LEVEL, eos_token_ids=[5])
    table, plain = TokenTable.from_tokenizer(wrapper), TokenTable.from_tokenizer(BYTE_LEVEL)
    assert plain.size == table.size
    different = [i for i in range(table.size) if table.bytes_of(i) != plain.bytes_of(i)]
    assert different == [5]  # hidden: it ends the answer


def test_the_output_package_needs_neither_mlx_nor_transformers():
    code = "import sys, backend.output; from backend.output.formats import formats; formats()\n"
    code += "print([m for m in ('mlx', 'mlx_lm', 'transformers', 'tokenizers', 'grpc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
