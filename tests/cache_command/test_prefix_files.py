"""What `pin` is given to keep."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.cache_command.prefix_files import read_line, read_messages, read_text


def written(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_messages_are_taken_as_openai_has_them(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    file = written(
        tmp_path / "m",
        [
            {"role": "system", "content": "Be brief.", "name": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
    )
    assert read_messages(file) == (
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "tool_calls": json.dumps([call])},
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({}, "array of messages"),
        ([], "array of messages"),
        (["x"], "message 0: must be an object"),
        ([{"role": "user"}, {"role": "user", "content": [{"type": "text"}]}], "message 1: content must be text"),
        ([{"role": "user", "contents": "x"}], "'contents' is none of role, content"),
    ],
)
def test_other_messages_are_refused_with_the_file_and_the_place(tmp_path: Path, content: Any, words: str) -> None:
    file = written(tmp_path / "m", content)
    with pytest.raises(ValueError, match=words) as caught:
        read_messages(file)
    assert str(caught.value).startswith(file)


def test_a_prompt_is_what_is_in_the_file_and_a_secret_has_no_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b" one\r\ntwo\n")
    assert read_text(str(tmp_path / "p")) == " one\r\ntwo\n"
    assert read_line(str(tmp_path / "p")) == "one\r\ntwo"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_bytes(b"\n")
    for name, words in (
        ("none", "No such file"),
        (".", "Is a directory"),
        ("bytes", "not UTF-8"),
        ("empty", "is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            read_line(str(tmp_path / name))
