"""The files of names, as whoever tidies the directory has them."""

from pathlib import Path

import numpy as np
import pytest

from backend.engine.name_files import KeptName, NameFiles


def kept(name: str, made_at: float) -> KeptName:
    return KeptName("", name, np.arange(3, dtype=np.int32), made_at)


def test_everything_is_of_all_models_and_clear_forgets_it(tmp_path: Path) -> None:
    files = NameFiles(tmp_path)
    files.write("two", kept("b", 2.0))
    files.write("one", kept("a", 1.0))
    files.read()
    assert [(model, one.name) for model, one in files.everything()] == [("one", "a"), ("two", "b")]
    assert [one.name for one in files.known("two")] == ["b"]
    files.clear()
    files.read()
    assert files.everything() == [] and list(files.bad()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"5", b"[]", b"\xff", b"[" * 100_000, b'{"check": 1}'])
def test_a_file_that_is_not_whole_is_left_out_and_named(tmp_path: Path, content: bytes) -> None:
    files = NameFiles(tmp_path)
    files.write("one", kept("a", 1.0))
    (tmp_path / "names" / "broken.json").write_bytes(content)
    files.read()
    assert [one.name for _, one in files.everything()] == ["a"]
    assert list(files.bad()) == [("names/broken.json", "not what was written")]
