from pathlib import Path

import pytest

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.locate import Hub, Local, resolve, resolve_extra


def test_the_first_candidate_that_exists_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    assert resolve([str(first), str(second), "owner/name"]) == Local(second)
    first.mkdir()
    assert resolve([str(first), str(second), "owner/name"]) == Local(first)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_of_a_model_stands_for_its_directory(tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    assert resolve([str(tmp_path / file)]) == Local(tmp_path)


def test_another_kind_of_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelLoadFailed, match=r"model\.gguf: is a file"):
        resolve([str(tmp_path / "model.gguf")])


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert resolve([f"file://{tmp_path}/a%20b"]) == Local(tmp_path / "a b")


def test_an_extra_lies_beside_the_model_in_a_root_or_is_a_repository(tmp_path: Path) -> None:
    model, models = tmp_path / "models" / "m", tmp_path / "models"
    model.mkdir(parents=True)
    roots = (str(models),)
    assert resolve_extra("Tokenizer", "own/name", model, roots) == Hub("own/name")
    (models / "tok").mkdir()
    assert resolve_extra("Tokenizer", "tok", model, roots) == Local(models / "tok")
    assert resolve_extra("Tokenizer", f"file://{models}/tok", model, ()) == Local(models / "tok")
    (model / "tok").mkdir()
    assert resolve_extra("Tokenizer", "tok", model, roots) == Local(model / "tok")
    with pytest.raises(ModelLoadFailed, match="Tokenizer: model path does not exist"):
        resolve_extra("Tokenizer", "/nonexistent/tok", model, roots)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(["here"]) == Local(tmp_path / "here")


@pytest.mark.parametrize(
    "name",
    [
        "owner/name-1.5_b",
        "hf://owner/name-1.5_b",
        "huggingface://owner/name-1.5_b",
        "https://huggingface.co/owner/name-1.5_b",
        "https://huggingface.co/owner/name-1.5_b/",
    ],
)
def test_a_repository_is_named_with_or_without_a_prefix(name: str) -> None:
    assert resolve(["/nonexistent/models/x", name]) == Hub("owner/name-1.5_b")


def test_a_prefixed_name_is_a_repository_even_where_a_directory_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(["hf://owner/name"]) == Hub("owner/name")


@pytest.mark.parametrize(
    "name",
    [
        "/nonexistent/owner/name",
        "name",
        "../owner/name",
        "owner/../name",
        "a/b/c",
        "-a/b",
        "x" * 5000,
        "a\0b/c",
        "~/x/y",
    ],
)
def test_what_is_neither_a_path_nor_a_repository_does_not_exist(name: str) -> None:
    with pytest.raises(ModelLoadFailed, match="model path does not exist"):
        resolve(["/nonexistent/x", name])


@pytest.mark.parametrize("candidates", [[], [""], ["", " "]])
def test_no_name_at_all_is_said_so(candidates: list[str]) -> None:
    with pytest.raises(ModelLoadFailed, match="Model: no model is named"):
        resolve(candidates)
