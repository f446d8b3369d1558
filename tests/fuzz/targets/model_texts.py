"""The texts of a model's directory, small, to begin with: tokenizers of every kind, and the files beside them."""

from typing import Any

from backend.check.random_tokenizer import CHAT_TEMPLATE, byte_characters

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_TEXT = ("a", "b", "c", "ab", "\u2581", "\u2581a", "hello", "<0x41>", "<unk>", "\u00e9", "##b", "\u0120a")


def _added(text: str, token: int, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": token, "content": text, **plain, **flags}


def _tokenizer(model: dict[str, Any], *, pieces: int, **parts: Any) -> dict[str, Any]:
    added = [
        _added("<|im_end|>", pieces, special=True),
        _added("<think>", pieces + 1),
        _added(" x", pieces + 2, lstrip=True),
    ]
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": added, **parts, "model": model}


_VOCAB = {piece: at for at, piece in enumerate(_TEXT)}
_ASCII = {piece: at for at, piece in enumerate(byte_characters()[:128])}
TOKENIZERS: tuple[dict[str, Any], ...] = (
    _tokenizer(
        {"type": "BPE", "vocab": {**_ASCII, "ab": 128}, "merges": [["a", "b"]], "ignore_merges": False},
        pieces=129,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+|\\d"}, "behavior": "Isolated", "invert": False},
            _BYTE_LEVEL]},
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                        {"Sequence": {"id": "B", "type_id": 1}}],
                        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [129], "tokens": ["<|im_end|>"]}}},
        decoder=_BYTE_LEVEL,
    ),
    _tokenizer(
        {"type": "BPE", "vocab": _VOCAB, "merges": ["a b"], "byte_fallback": True, "unk_token": "<unk>",
        "fuse_unk": True},
        pieces=len(_TEXT),
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, {"type": "NFC"}]},
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                 {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    ),
    _tokenizer(
        {"type": "Unigram", "unk_id": 8, "vocab": [[piece, -float(at)] for at, piece in enumerate(_TEXT)],
        "byte_fallback": False},
        pieces=len(_TEXT),
        pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ),
    _tokenizer(
        {"type": "WordPiece", "vocab": _VOCAB, "unk_token": "<unk>", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9},
        pieces=len(_TEXT),
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
        "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
    _tokenizer(
        {"type": "BPE", "vocab": _VOCAB, "merges": []}, pieces=len(_TEXT),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 5}, {"type": "Digits",
                       "individual_digits": True}]},
        decoder={"type": "Sequence", "decoders": [{"type": "Strip", "content": "a", "start": 0, "stop": 1},
        {"type": "CTC",
                 "pad_token": "a", "word_delimiter_token": "b", "cleanup": True}]},
    ),
    _tokenizer({"type": "WordLevel", "vocab": _VOCAB, "unk_token": "<unk>"}, pieces=len(_TEXT),
               truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
               padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "a"}),
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|im_end|>",
    "bos_token": None,
    "add_bos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1_000_000,
    "chat_template": CHAT_TEMPLATE,
}
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "vocab_size": 132, "head_dim": 16, "max_position_embeddings": 256,
    "rope_theta": 1e4, "tie_word_embeddings": True, "eos_token_id": 129, "rope_scaling": {"type": "linear",
    "factor": 2.0},
    "torch_dtype": "float32",
}  # fmt: skip
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": "model.safetensors"}}
SENTENCE: tuple[dict[str, Any], ...] = (
    {"modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                      {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                      {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}],
     "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "include_prompt": True}},
    {"config_sentence_transformers.json": {"prompts": {"query": "q: ", "document": ""},
    "default_prompt_name": "query"}},
    {"modules.json": [{"path": "1_Pooling", "type": "Pooling"}], "1_Pooling/config.json": {"pooling_mode": "mean"}},
)  # fmt: skip
WORDS = [word.encode() for word in (
    "BPE", "Unigram", "WordPiece", "WordLevel", "ByteLevel", "Metaspace", "Split", "Sequence", "Replace",
    "ByteFallback",
    "Fuse", "Strip", "CTC", "BPEDecoder", "Digits", "Whitespace", "Punctuation", "CharDelimiterSplit", "UnicodeScripts",
    "NFD", "NFKC", "Lowercase", "StripAccents", "Precompiled", "Nmt", "Prepend", "BertProcessing", "RobertaProcessing",
    "TemplateProcessing", "FixedLength", "precompiled_charsmap", "stride", "max_length", "dropout", "unk_token",
    "unk_id",
    "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer", "T5Tokenizer", "BertTokenizer",
    "auto_map",
    "additional_special_tokens", "added_tokens_decoder", "extra_special_tokens", "chat_template", "tool_parser_type",
    "AQID", "((a+)+)+$", "(?<=a)", "\\p{X}", "\u2581", "legacy", "sp_model_kwargs", "processor_class", "eos_token_id",
    "llama3", "yarn", "longrope", "factor", "original_max_position_embeddings", "quantization", "group_size",
    "bits", "qwen3",
    "gemma3_text", "mamba2", "model_file", "weight_map", "pooling_mode", "prompts", "default_prompt_name",
    "include_prompt",
)]  # fmt: skip
