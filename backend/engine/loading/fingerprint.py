"""The name of a model's KV: equal names mean that stored KV of one may be used by the other."""

import hashlib
from collections.abc import Iterable
from importlib.machinery import all_suffixes
from pathlib import Path

from backend.config import ModelConfig
from backend.engine.loading.checkpoint import WEIGHTS_PATTERN
from backend.engine.loading.kv_options import kv_format, stored_format
from backend.engine.loading.sizes import check_size

_CODE = frozenset(suffix[suffix.rfind(".") :] for suffix in all_suffixes())  # .abi3.so is one of .so
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def namespace(config: ModelConfig, directory: Path, *, tokenizer: Path, adapter: Path | None, facts: str) -> str:
    """32 hexadecimal digits over everything that shapes the KV of a text.

    Weight files count by name, size, modification time and header, not by content: reading them whole would
    double the load. Small files count by content, and so does code that may run.

    Args:
        facts: Anything further, such as dtype, device and library versions.
    """
    digest = hashlib.sha256()
    for source in (directory, tokenizer):
        _add_small_files(digest, source, _SMALL_FILES)
    _add_weights(digest, sorted(directory.glob(WEIGHTS_PATTERN)))
    if config.trust_remote_code:
        _add_code(digest, directory)
    if adapter is not None:
        _add_small_files(digest, adapter, ("adapter_config.json",))
        _add_weights(digest, [adapter / "adapters.safetensors"])
    _add(digest, "options", repr((config.max_kv_size, facts)).encode())
    for label, kv in (("codes of rows", kv_format(config)), ("codes that are stored", stored_format(config))):
        if kv is not None:
            _add(digest, label, repr(kv).encode())
    return digest.hexdigest()[:32]


def _add(digest: "hashlib._Hash", label: str, content: bytes) -> None:
    # Lengths delimit, so that no two different sequences of parts hash alike.
    digest.update(f"{label}:{len(content)}:".encode())
    digest.update(content)


def _add_small_files(digest: "hashlib._Hash", directory: Path, names: Iterable[str]) -> None:
    for name in names:
        file = directory / name
        if file.is_file():
            check_size(file)
            _add(digest, name, file.read_bytes())


def _add_code(digest: "hashlib._Hash", directory: Path) -> None:
    """What config.json names, in whatever form Python imports it, may import what lies beside it."""
    files = (file for file in directory.iterdir() if file.suffix in _CODE and file.is_file())
    for file in sorted(files):
        with file.open("rb") as opened:
            _add(digest, file.name, hashlib.file_digest(opened, "sha256").digest())


def _add_weights(digest: "hashlib._Hash", files: Iterable[Path]) -> None:
    for file in files:
        status = file.stat()
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = opened.read(min(length, status.st_size))
        _add(digest, f"{file.name} {status.st_size} {status.st_mtime_ns}", header)
