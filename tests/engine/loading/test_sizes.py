"""Which files have a limit, and that one is asked wherever a load reads a file whole."""

import ast
import os
from pathlib import Path

import pytest
import transformers

from backend.core.errors import ModelLoadFailed
from backend.engine.loading import checkpoint, open_files
from backend.engine.loading.fingerprint import namespace
from backend.engine.loading.sizes import limit_of
from tests.engine.harness import model_config

HUGE = 3 << 30


def names_of_tokenizers() -> set[str]:
    """What the tokenizers' classes of transformers call their files, as their sources say."""
    found: set[str] = set()
    for file in Path(transformers.__file__).parent.glob("models/*/tokenization*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VOCAB_FILES_NAMES":
                constants = (one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant))
                found |= {one for one in constants if isinstance(one, str) and "." in one}
    return found


def test_every_file_that_a_tokenizers_class_names_has_a_limit() -> None:
    names = names_of_tokenizers()
    assert {"tokenizer.json", "vocab.txt", "spiece.model"} <= names
    assert sorted(name for name in names if limit_of(name) is None) == []


def test_what_real_models_have_is_well_below_and_what_nobody_reads_has_no_limit() -> None:
    largest = {"tokenizer.json": 35, "model.safetensors.index.json": 20, "tokenizer_config.json": 12, "config.json": 5}
    for name, mebibytes in largest.items():
        limit = limit_of(name)
        assert limit is not None
        assert limit >= 3 * (mebibytes << 20), name
    for name in ("model.safetensors", "pytorch_model.bin", "trainer_state.json", "README.md", "data.jsonl"):
        assert limit_of(name) is None, name


def test_a_pooling_of_gigabytes_is_not_read(own_model: Path) -> None:
    (own_model / "modules.json").write_text('[{"type": "Pooling", "path": "1_Pooling"}]')
    (own_model / "1_Pooling").mkdir()
    (own_model / "1_Pooling" / "config.json").touch()
    os.truncate(own_model / "1_Pooling" / "config.json", HUGE)
    assert f"{HUGE} bytes" in open_files(model_config(own_model)).sentence.unsupported


def test_a_file_that_has_grown_since_the_load_is_not_read_to_wake_the_model(own_model: Path) -> None:
    os.truncate(own_model / "tokenizer.json", HUGE)
    with pytest.raises(ModelLoadFailed, match=f"tokenizer.json: has {HUGE} bytes"):
        namespace(model_config(own_model), own_model, tokenizer=own_model, adapter=None, facts="")
    (own_model / "model.safetensors.index.json").touch()
    os.truncate(own_model / "model.safetensors.index.json", HUGE)
    with pytest.raises(ModelLoadFailed, match=f"index.json: has {HUGE} bytes"):
        checkpoint.check_weights(own_model)
