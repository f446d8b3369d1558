"""Where a prompt cache's directory may lie."""

from pathlib import Path

import pytest

from backend.config import CacheConfig
from backend.engine.loading.disk import OpenDisk, open_disk


@pytest.mark.parametrize(
    ("named", "below"),
    [("..", True), (".", True), ("../kv", True), ("a/../../kv", True), ("out/kv", True), ("kv", False)],
)
def test_a_relative_directory_is_below_the_models_or_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, below: bool
) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models, elsewhere):
        folder.mkdir(mode=0o700)
    (models / "out").symlink_to(elsewhere)
    monkeypatch.chdir(elsewhere)
    refused = open_disk(CacheConfig(directory=named), str(models) if below else "")
    assert isinstance(refused, str)
    assert "ModelPath" in refused
    assert {path.name for path in tmp_path.rglob("*")} == {"models", "elsewhere", "out"}


@pytest.mark.parametrize("told", ["models", "models/.", "models/../models", "models/kv/.."])
def test_the_models_own_directory_is_none_below_it_however_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    (tmp_path / "models" / "kv").mkdir(parents=True, mode=0o700)
    monkeypatch.chdir(tmp_path)
    for model_path in (told, str(tmp_path / told)):
        assert isinstance(open_disk(CacheConfig(directory="."), model_path), str)
        assert not (tmp_path / "models" / "secret").exists()


@pytest.mark.parametrize("named", ["kv", "./kv", "a/kv"])
def test_one_below_them_is_made_there(tmp_path: Path, named: str) -> None:
    opened = open_disk(CacheConfig(directory=named), str(tmp_path))
    assert isinstance(opened, OpenDisk)
    opened.close()
    assert (tmp_path / named / "secret").is_file()


def test_one_in_place_of_which_there_is_a_link_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "kv").symlink_to(tmp_path)
    assert str(open_disk(CacheConfig(directory=str(tmp_path / "kv")), "")).endswith("kv: is a link")
