"""What the files of sentence-transformers say, and what becomes of those that say what is not done."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.sentence import SentenceConfig, read_sentence_config

KINDS = ("Transformer", "Pooling", "Normalize")
QWEN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}


def write(folder: Path, pooling: dict[str, Any] | None = None, kinds: tuple[str, ...] = KINDS, **extra: Any) -> None:
    modules = [{"path": f"{i}_{kind}" if i else "", "type": f"st.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if extra:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(extra))


def read(folder: Path) -> SentenceConfig:
    return read_sentence_config(folder, lambda _: None)


def test_a_model_without_such_files_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == SentenceConfig()


def test_qwen3_embeddings_files_are_understood(tmp_path: Path) -> None:
    prompts = {"query": "Instruct: Find it\nQuery:", "document": ""}
    write(tmp_path, QWEN, prompts=prompts, default_prompt_name=None)
    assert read(tmp_path) == SentenceConfig(present=True, pooling="last", normalize=True, prompts=prompts)


@pytest.mark.parametrize(
    ("pooling", "kinds", "words"),
    [
        ({"pooling_mode_cls_token": True}, KINDS, "cls"),
        ({}, KINDS, "not named"),
        (QWEN | {"pooling_mode_mean_tokens": True}, KINDS, "and"),
        (QWEN | {"include_prompt": False}, KINDS, "prompt"),
        (QWEN, (*KINDS, "Dense"), "Dense"),
        (None, KINDS, "no such file"),
    ],
)
def test_what_is_not_done_is_named(tmp_path: Path, pooling: Any, kinds: tuple[str, ...], words: str) -> None:
    write(tmp_path, pooling, kinds)
    assert words in read(tmp_path).unsupported


def test_newer_files_name_the_pooling(tmp_path: Path) -> None:
    write(tmp_path, {"pooling_mode": "mean"}, KINDS[:2], prompts={"a": 1, "b": "B:"}, default_prompt_name="b")
    assert read(tmp_path) == SentenceConfig(
        present=True, pooling="mean", normalize=False, prompts={"b": "B:"}, default_prompt="b"
    )


def test_broken_files_and_files_elsewhere_are_no_reason_not_to_load(tmp_path: Path) -> None:
    write(tmp_path, QWEN)

    def check(path: Path) -> None:
        raise ModelLoadFailed(f"{path}: leads out")

    assert "leads out" in read_sentence_config(tmp_path, check).unsupported
    (tmp_path / "modules.json").write_text("{")
    assert read(tmp_path).unsupported
