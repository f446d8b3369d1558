"""The files of conversations: what they tell a later process, and what they do not tell anybody."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.engine import conversation_files
from backend.engine.conversation_files import ConversationFiles, KeptConversation
from backend.engine.small_files import digest
from mlx_cache.disk import Place


def upside_down(text: str) -> str:
    return f"{hash(text) & (1 << 128) - 1:032x}"


def kept(files: ConversationFiles, name: str, last: float, tenant: str = "") -> KeptConversation:
    branches = tuple(np.arange(n, dtype=np.int32) for n in (3, 5))
    return KeptConversation(tenant, files.key(tenant, name), branches, last)


@pytest.fixture
def files(tmp_path: Path) -> ConversationFiles:
    return ConversationFiles(Place(tmp_path), upside_down)


def known(files: ConversationFiles, namespace: str) -> list[float]:
    files.read()
    return [one.last for one in files.known(namespace)]


def test_what_was_written_last_is_read_the_idlest_first(files: ConversationFiles) -> None:
    for name, last in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        files.write("model", kept(files, name, last))
    files.write("other", kept(files, "a", 9.0))
    assert known(files, "model") == [2.0, 3.0]
    assert [branch.tolist() for branch in files.known("model")[1].branches] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [files.last(model, files.key("", "a")) for model in ("model", "other", "none")] == [3.0, 9.0, 0.0]
    files.remove("model", files.key("", "b"))
    assert known(files, "model") == [3.0]


def test_an_id_is_not_on_the_disk_and_is_each_tenants_own(files: ConversationFiles, tmp_path: Path) -> None:
    files.write("model", kept(files, "a-name-of-somebody", 1.0, "t"))
    files.write("model", kept(files, "a-name-of-somebody", 2.0, "u"))
    written = list(tmp_path.rglob("*.json"))
    assert len(written) == 2
    assert not [path for path in written if "somebody" in path.name or b"somebody" in path.read_bytes()]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (lambda namespace, tenant: (namespace, tenant) == ("model", "t"), [2.0]),
        (lambda namespace, tenant: namespace == "model", []),
        (lambda namespace, tenant: namespace == "other", [1.0, 2.0]),
        (None, []),
    ],
)
def test_clearing_takes_what_is_meant_whoever_wrote_it(
    files: ConversationFiles, tmp_path: Path, which: Callable[[str, str], bool] | None, left: list[float]
) -> None:
    for tenant, last in (("t", 1.0), ("u", 2.0)):
        files.write("model", kept(files, "a", last, tenant))
    ConversationFiles(Place(tmp_path), upside_down).clear(which)
    assert known(files, "model") == left


def test_the_oldest_of_too_many_files_go(files: ConversationFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_files, "MOST_FILES", 2)
    for last in (3.0, 1.0, 2.0):
        files.write("model", kept(files, str(last), last))
    assert known(files, "model") == known(files, "model") == [2.0, 3.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "x" * 300},
        {"key": "../../x"},
        {"key": "AB" * 16},
        {"last": 10**400},
        {"last": "1e999"},
        {"last": None},
        {"tenant": "\ud800"},
        {"key": 7},
        {"namespace": "\udfff"},
    ],
    ids=str,
)
def test_one_with_a_right_hash_that_nobody_here_wrote_is_left_out(
    files: ConversationFiles, tmp_path: Path, wrong: dict[str, object]
) -> None:
    """The hash has no key. None of these may raise where a load reads them, or later where one is hashed or sent."""
    body = {"namespace": "model", "tenant": "t", "key": "ab" * 16, "branches": [], "last": 1.0} | wrong
    told = json.dumps(body | {"check": digest(json.dumps(body, sort_keys=True))})
    files.write("model", kept(files, "a", 1.0))
    (tmp_path / "conversations" / "made.json").write_text(told)
    assert known(files, "model") == [1.0]
    assert list(files.bad()) == [("conversations/made.json", "not what was written")]


def test_one_that_is_not_whole_is_left_out_and_named(files: ConversationFiles, tmp_path: Path) -> None:
    files.write("model", kept(files, "a", 1.0))
    (tmp_path / "conversations" / "broken.json").write_text("{}")
    assert known(files, "model") == [1.0]
    assert list(files.bad()) == [("conversations/broken.json", "not what was written")]
    files.clear()
    assert not list(files.bad())
