"""The choice of a model's markers and tool-call format, read from its tokenizer and chat template."""

from collections.abc import Container, Mapping
from typing import Any

BAR = "\uff5c"  # DeepSeek and Step write it in their markers in place of an ASCII one

DSML = f"{BAR}DSML{BAR}"

COMMAND_THINK = ("<|START_THINKING|>", "<|END_THINKING|>")
APERTUS_THINK = ("<|inner_prefix|>", "<|inner_suffix|>")
THINK_PAIRS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    COMMAND_THINK,
    APERTUS_THINK,
)
GEMMA_THINK = ("<|channel>thought", "<channel|>")
XTML_THINK = ("<|open|>think<|sep|>", "<|close|>think<|sep|>")
XTML_TOKENS = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
XTML_IGNORED = (
    "<|open|>response<|sep|>",
    "<|close|>response<|sep|>",
    "<|close|>message<|sep|>",
)

# Names that hosts and other servers use for what mlx-lm has a parser for.
FORMAT_ALIASES: Mapping[str, str] = {
    "hermes": "json_tools",
    "json": "json_tools",
    "qwen": "json_tools",
    "qwen25": "json_tools",
    "qwen3": "json_tools",
    "qwen3_xml": "qwen3_coder",
    "step3p5": "qwen3_coder",
    "seed": "seed_oss",
    "step": "step3",
    "hunyuan_a13b": "hunyuan",
    "hunyuan_v3": "hy3",
    "hy_v3": "hy3",
    "deepseek": "deepseek_v3",
    "deepseek_r1": "deepseek_v3",
    "deepseek_v31": "deepseek_v3",
    "deepseek_v3.1": "deepseek_v3",
    "deepseek_v3.2": "deepseek_v32",
    "deepseek_v4": "deepseek_v32",
    "command": "cohere",
    "cohere2": "cohere",
    "command_a": "cohere",
    "command_r7b": "cohere",
    "llama": "llama3_json",
    "llama3": "llama3_json",
    "llama3.1": "llama3_json",
    "llama4_json": "llama4",
    "llama4_pythonic": "llama4",
    "granite3": "granite",
    "phi4": "phi4_mini",
    "phi4_mini_json": "phi4_mini",
    "internlm2": "internlm",
    "interns1": "internlm",
    "minimax_m1": "jamba",
    "apriel": "jamba",
    "olmo": "olmo3",
    "nemotron_json": "nemotron",
    "functionary_v3": "functionary",
    "ernie": "ernie45",
    "exaone": "json_tools",
    "mimo": "qwen3_coder",
    "devstral": "mistral",
    "glm": "glm47",
    "glm4": "glm47",
    "glm45": "glm47",
    "kimi": "kimi_k2",
    "minimax": "minimax_m2",
    "minicpm": "minicpm5",
    "gemma": "gemma4",
    "functiongemma": "function_gemma",
    "lfm2": "pythonic",
    "muse": "muse_spark",
    "gpt_oss": "harmony",
    "openai": "harmony",
}
REASONING_ALIASES: Mapping[str, tuple[str, str]] = {
    "think": THINK_PAIRS[0],
    "qwen3": THINK_PAIRS[0],
    "deepseek_r1": THINK_PAIRS[0],
    "glm45": THINK_PAIRS[0],
    "longcat": THINK_PAIRS[1],
    "mistral": THINK_PAIRS[3],
    "seed_oss": THINK_PAIRS[4],
    "cohere": COMMAND_THINK,
    "apertus": APERTUS_THINK,
    "gemma4": GEMMA_THINK,
    "kimi_k3": XTML_THINK,
}


def choose_reasoning(vocab: Container[str], template: str) -> tuple[str, str] | None:
    """Markers around reasoning: those in the vocabulary (as mlx-lm), else those that the template writes."""
    for start, end in THINK_PAIRS:
        if start in vocab and end in vocab:
            return start, end
    if "<|channel>" in vocab and "<channel|>" in vocab:
        return GEMMA_THINK
    if is_xtml(vocab):
        return XTML_THINK
    for start, end in THINK_PAIRS:
        if start in template and end in template:
            return start, end
    return None


def choose_calls(vocab: Container[str], template: str) -> str | None:
    """Name of the tool-call format, by the same signs and in the same order as mlx-lm's `_infer_tool_parser`.

    Those that mlx-lm has no parser for come after, but for harmony, whose markers no other template has.
    """
    if "<|channel|>" in template and "<|message|>" in template and "<|start|>" in template:
        return "harmony"
    for name, signs in _TEMPLATE_SIGNS:
        if any(all(sign in template for sign in group) for group in signs):
            return name
    if is_xtml(vocab):
        return "kimi_k3"
    return next((name for name, tokens in _VOCABULARY_SIGNS if all(token in vocab for token in tokens)), None)


def is_xtml(vocab: Container[str]) -> bool:
    """Whether the model writes Kimi K3's markup."""
    return all(token in vocab for token in XTML_TOKENS)


# Name, then alternatives, each a group of texts that must all be in the template. The first that fits is it.
_TEMPLATE_SIGNS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("minimax_m2", (("<minimax:tool_call>",),)),
    ("gemma4", (("<|tool_call>", "<tool_call|>"),)),
    ("function_gemma", (("<start_function_call>",),)),
    ("longcat", (("<longcat_tool_call>",),)),
    ("hy3", (("<arg_key>", "<tool_sep>"),)),
    ("glm47", (("<arg_key>",),)),
    ("pythonic", (("<|tool_list_start|>",), ("<|tool_call_start|>",))),
    ("qwen3_coder", (("<tool_call>\\n<function=",), ("<tool_call>\n<function=",))),
    ("kimi_k2", (("<|tool_calls_section_begin|>",),)),
    ("minicpm5", (('<function name="', '<param name="'),)),
    ("mistral", (("[TOOL_CALLS]",),)),
    ("muse_spark", (("<atem:function_calls>",),)),
    ("ernie45", (("<tool_call>", "<response>"),)),
    ("json_tools", (("<tool_call>", "tool_call.name"),)),
    # mlx-lm has no parsers for these.
    ("deepseek_v32", ((DSML,),)),
    ("deepseek_v3", ((f"<{BAR}tool\u2581calls\u2581begin{BAR}>",),)),
    ("step3", ((f"<{BAR}tool_calls_begin{BAR}>",), ("<steptml:invoke",))),
    ("seed_oss", (("<seed:tool_call>",),)),
    ("hunyuan", (("<tool_calls>", "<answer>"), ("<tool_calls>", "<|extra_0|>"))),
    ("jamba", (("<tool_calls>", "</tool_calls>"),)),
    ("cohere", (("<|START_ACTION|>",),)),
    ("nemotron", (("<TOOLCALL>",),)),
    ("olmo3", (("<function_calls>",),)),
    ("internlm", (("<|action_start|>",),)),
    ("apertus", (("<|tools_prefix|>",),)),
    ("phi4_mini", (("<|/tool_call|>",), ("<|tool|>", "<|/tool|>"), ("functools[",))),
    ("granite", (("<|tool_call|>",),)),
    ("qwen3_coder", (("<function=", "<parameter="),)),
    ("functionary", (("<function=", "</function>"),)),
    ("llama4", (("<|python_start|>",), ("<|header_start|>", "ipython"))),
    ("llama3_json", (("<|python_tag|>",), ("ipython", '"parameters": '))),
    ("xlam", (('[{"name": "tool_call_name"',),)),
    ("json_tools", (("<tool_call>", "</tool_call>", "arguments"),)),
)
# Tokens that only models of one format have.
_VOCABULARY_SIGNS = (
    ("pythonic", ("<|tool_call_start|>", "<|tool_call_end|>")),
    ("deepseek_v32", (DSML,)),
    ("deepseek_v3", (f"<{BAR}tool\u2581calls\u2581begin{BAR}>", f"<{BAR}tool\u2581calls\u2581end{BAR}>")),
    ("step3", (f"<{BAR}tool_calls_begin{BAR}>", f"<{BAR}tool_calls_end{BAR}>")),
    ("seed_oss", ("<seed:tool_call>", "</seed:tool_call>")),
    ("cohere", ("<|START_ACTION|>", "<|END_ACTION|>")),
    ("internlm", ("<|action_start|>", "<|action_end|>", "<|plugin|>")),
    ("apertus", ("<|tools_prefix|>", "<|tools_suffix|>")),
    ("phi4_mini", ("<|tool_call|>", "<|/tool_call|>")),
)


def declared_calls(tokenizer: Any) -> str | None:
    """The format that the checkpoint's own configuration or mlx-lm's wrapper names, if any."""
    declared = (getattr(tokenizer, "init_kwargs", None) or {}).get("tool_parser_type")
    if declared:
        return str(declared)
    parser = getattr(tokenizer, "tool_parser", None)
    return parser.__module__.rpartition(".")[2] if callable(parser) else None


def declared_reasoning(tokenizer: Any) -> tuple[str, str] | None:
    """The markers that mlx-lm's wrapper reports, if any."""
    pair = getattr(tokenizer, "think_start", None), getattr(tokenizer, "think_end", None)
    return (str(pair[0]), str(pair[1])) if all(pair) else None


class Vocabulary:
    """Which tokens a tokenizer has. Asked a few times; its whole vocabulary as a dictionary takes 0.1 s to make."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._id_of = backend.token_to_id if backend is not None else tokenizer.get_vocab().get

    def __contains__(self, token: object) -> bool:
        return self._id_of(token) is not None


def template_text(tokenizer: Any) -> str:
    """The chat template; several named ones are read together."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        return "\n".join(text for text in template.values() if isinstance(text, str))
    return template if isinstance(template, str) else ""
