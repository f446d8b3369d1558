"""The files of names, as whoever tidies the directory has them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from backend.engine.name_files import KeptName, NameFiles
from backend.engine.small_files import digest
from mlx_cache.disk import Place


def kept(name: str, made_at: float) -> KeptName:
    return KeptName("", name, np.arange(3, dtype=np.int32), made_at)


def test_everything_is_of_all_models_and_clear_forgets_it(tmp_path: Path) -> None:
    files = NameFiles(Place(tmp_path))
    files.write("two", kept("b", 2.0))
    files.write("one", kept("a", 1.0))
    files.read()
    assert [(model, one.name) for model, one in files.everything()] == [("one", "a"), ("two", "b")]
    assert [one.name for one in files.known("two")] == ["b"]
    files.clear()
    files.read()
    assert files.everything() == [] and list(files.bad()) == []


def test_none_is_written_where_the_directorys_folder_is_a_link_now(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place = Place(tmp_path / "a" / "kv")
    os.close(place.open(make=True))
    files = NameFiles(place)
    files.write("one", kept("a", 1.0))
    (tmp_path / "a").rename(tmp_path / "was")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="another one now"):
        files.write("one", kept("b", 1.0))
    with pytest.raises(OSError, match="another one now"):
        files.remove("one", "", "a")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_directory_that_others_can_write_is_neither_read_nor_written(tmp_path: Path) -> None:
    files = NameFiles(Place(tmp_path))
    files.write("one", kept("a", 1.0))
    tmp_path.chmod(0o777)
    files.read()
    assert files.everything() == []
    with pytest.raises(PermissionError, match="can be written by others"):
        files.write("one", kept("b", 1.0))
    tmp_path.chmod(0o700)
    files.read()
    assert [one.name for _, one in files.everything()] == ["a"]


@pytest.mark.parametrize("content", [b"", b"{}", b"5", b"[]", b"\xff", b"[" * 100_000, b'{"check": 1}'])
def test_a_file_that_is_not_whole_is_left_out_and_named(tmp_path: Path, content: bytes) -> None:
    files = NameFiles(Place(tmp_path))
    files.write("one", kept("a", 1.0))
    (tmp_path / "names" / "broken.json").write_bytes(content)
    files.read()
    assert [one.name for _, one in files.everything()] == ["a"]
    assert list(files.bad()) == [("names/broken.json", "not what was written")]


@pytest.mark.parametrize("wrong", [{"made_at": 10**400}, {"name": "\ud800"}, {"tenant": 1.5}], ids=str)
def test_a_file_with_a_right_hash_that_nobody_here_wrote_is_left_out(tmp_path: Path, wrong: dict[str, object]) -> None:
    body = {"namespace": "one", "tenant": "", "name": "n", "made_at": 1.0, "tokens": ""} | wrong
    files = NameFiles(Place(tmp_path))
    files.write("one", kept("a", 1.0))
    told = json.dumps(body | {"check": digest(json.dumps(body, sort_keys=True))})
    (tmp_path / "names" / "made.json").write_text(told)
    files.read()
    assert [one.name for _, one in files.everything()] == ["a"]
    assert list(files.bad()) == [("names/made.json", "not what was written")]
