"""Chat templates in the shapes that models ship, and a small tokenizer to render and encode with."""

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<bos>"]

CHATML = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- if message.reasoning_content and loop.index0 > ns.last %}
            {{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

OPENS_THINKING = CHATML + r"{%- if add_generation_prompt %}{{- '<think>\n' }}{%- endif %}"

STRICT_TURNS = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}{%- set system = messages[0]['content'] | trim + '\n\n' %}
{%- else %}{%- set rest = messages %}{%- set system = '' %}{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must take turns') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.last else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}{{- ' ' + message['content'] | trim + '</s>' }}{%- endif %}
{%- endfor %}"""

GENERATION_TAG = r"""
{% for message in messages %}
{% if message.role == 'skip' %}{% continue %}{% endif %}
{% if message.role == 'assistant' %}
{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}

{% else %}
{{ message.role | upper }}: {{ message.content }}
{% endif %}
{% if loop.index > 20 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT: {% endif %}"""

WITH_DICT = r"""{% set seen = dict(a=1, b=[1, 2]) %}{{ seen | tojson }}{{ {'z': '<é&>'} | tojson(indent=2) }}
{% for message in messages %}{{ message.role }}|{{ message.content }}|{{ message.name or '-' }}
{% endfor %}{{ strftime_now('%Y') }}{{ tools }}{{ documents }}"""

PRINTS_ARGUMENTS = r"""{% for m in messages %}{{ m.role }}:{{ m.content }}
{%- for call in m.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments }}</call>{% endfor %}
{% endfor %}"""

JOINS_ARGUMENTS = PRINTS_ARGUMENTS.replace(
    "{{ call.function.arguments }}", "{{ call.function.name + call.function.arguments }}"
)

ALL = {
    "chatml": CHATML,
    "opens_thinking": OPENS_THINKING,
    "strict_turns": STRICT_TURNS,
    "generation_tag": GENERATION_TAG,
    "with_dict": WITH_DICT,
}


@lru_cache(maxsize=4)
def small_tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens with chat markers. Do not change it: it is shared."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["system user assistant hello there, a small world of words"] * 4, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<bos>")
