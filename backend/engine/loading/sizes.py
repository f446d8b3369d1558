"""How large a file may be that a load reads whole. Its size is asked before a byte of it is read."""

from fnmatch import fnmatchcase
from pathlib import Path

from backend.core.errors import ModelLoadFailed

_MIB = 1 << 20
TEMPLATE_BYTES = 4 * _MIB
# Each well above the largest of public models: tokenizers have up to 35 MB, lists of shards 20, settings 5.
# What is not named is not read whole: weights, and whatever else lies beside them. The first pattern counts.
_LIMITS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (TEMPLATE_BYTES, ("*.jinja", "chat_template.json", "*.py")),
    (64 * _MIB, ("*.safetensors.index.json", "tokenizer_config.json")),
    (
        16 * _MIB,
        (
            "*config.json",
            "config_sentence_transformers.json",
            "modules.json",
            "special_tokens_map.json",
            "added_tokens.json",
        ),
    ),
    (
        128 * _MIB,
        (
            "tokenizer*.json",
            "*vocab*.json",
            "vocab*.txt",
            "merges.txt",
            "dict.txt",
            "*.model",
            "*.tiktoken",
            "*.spm",
            "*.codes",
            "*.tokenizer",
            "byte_maps.json",
            "emoji.json",
            "normalizer.json",
            "word_*.json",
        ),
    ),
)


def limit_of(name: str) -> int | None:
    """Bytes that a file of this name may have; None for one that is not read whole."""
    fits = (limit for limit, patterns in _LIMITS if any(fnmatchcase(name, pattern) for pattern in patterns))
    return next(fits, None)


def check_size(path: Path, most: int | None = None) -> None:
    """Refuse a file that is larger than any of its kind.

    Args:
        most: Bytes; None for those of its name's kind.

    Raises:
        ModelLoadFailed: With the file, its size and the limit.
        OSError: It is not there.
    """
    limit = limit_of(path.name) if most is None else most
    if limit is not None and (size := path.stat().st_size) > limit:
        raise ModelLoadFailed(f"{path}: has {size} bytes, and at most {limit} are read of such a file")
