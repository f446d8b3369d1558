"""A byte-level tokenizer of any size, for models whose weights are random."""

import json
from pathlib import Path

BYTES = 256
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
IM_END = BYTES + SPECIALS.index("<|im_end|>")
LEAST_VOCAB = BYTES + len(SPECIALS) + len(MARKERS)

CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{ message.content }}{%- endif %}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}{{ tool_call.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE, as GPT-2 defined it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {byte: chr(byte) for byte in printable}
    for index, byte in enumerate(byte for byte in range(BYTES) if byte not in names):
        names[byte] = chr(BYTES + index)
    return [names[byte] for byte in range(BYTES)]


def write_tokenizer(folder: Path, vocab: int = 272, *, chat_template: str = CHAT_TEMPLATE) -> None:
    """Write a byte-level tokenizer of exactly `vocab` tokens: byte b is token b, then specials, markers, fillers."""
    if vocab < LEAST_VOCAB:
        raise ValueError(f"vocab must be at least {LEAST_VOCAB}, is {vocab}")
    pieces = byte_characters()
    added = [
        {
            "id": BYTES + index,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": content in SPECIALS,
        }
        for index, content in enumerate(SPECIALS + MARKERS)
    ]
    # Never encoded (there are no merges); a model may still say them: "\u0120" is the space.
    fillers = {f"\u0120w{index}": index for index in range(LEAST_VOCAB, vocab)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(pieces)}
            | {content: BYTES + index for index, content in enumerate(SPECIALS + MARKERS)}
            | fillers,
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
