"""scripts/harmony_vocabulary.py, without the network."""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "harmony_vocabulary.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harmony_vocabulary", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_line_of_the_npm_package_is_tokens_from_a_rank_on(script: ModuleType) -> None:
    encoder = json.dumps({"bpe_ranks": "! 2 Iw== JA==\n! 0 IQ== Ig=="}).encode()
    assert script.vocabulary(encoder) == b"IQ== 0\nIg== 1\nIw== 2\nJA== 3\n"


def test_a_vocabulary_with_another_hash_is_not_written(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "o200k_base.tiktoken"
    with pytest.raises(script.WrongVocabularyError):
        script.write(b"IQ== 0\n", path)
    assert not path.exists()
    script.write(b"IQ== 0\n", path, sha256=hashlib.sha256(b"IQ== 0\n").hexdigest())
    assert path.read_bytes() == b"IQ== 0\n"
