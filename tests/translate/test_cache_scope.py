"""Tenants, conversations and names, as requests give them."""

import pytest

from backend.core.errors import InvalidRequest
from backend.translate.cache_scope import checked_name, conversation_id_of, name_of_path, tenant_of


def test_a_salt_becomes_a_tenant_that_does_not_show_it() -> None:
    one, other = tenant_of({"cache_salt": "alice"}), tenant_of({"cache_salt": "bob"})
    assert one == tenant_of({"cache_salt": "alice", "conversation_id": "7"})
    assert len({one, other, tenant_of({"cache_salt": "alice "}), ""}) == 4
    assert "alice" not in one
    assert tenant_of({}) == tenant_of({"cache_salt": ""}) == ""


@pytest.mark.parametrize(
    ("key", "most", "read"), [("cache_salt", 1024, tenant_of), ("conversation_id", 256, conversation_id_of)]
)
def test_what_is_too_long_is_refused_by_its_bytes(key: str, most: int, read: object) -> None:
    assert callable(read)
    read({key: "é" * (most // 2)})
    with pytest.raises(InvalidRequest, match=rf"Metadata\[{key}\].*limit {most}"):
        read({key: "é" * (most // 2) + "x"})


@pytest.mark.parametrize("name", ["system", "a/b.kv", "team:support@v1", "_x", "a" * 128])
def test_a_name_is_words_joined_by_slashes(name: str) -> None:
    assert checked_name("name", name) == name


@pytest.mark.parametrize(
    "name", ["", "..", "a/../b", "/a", "a/", "a//b", ".hidden", "a/.b", "a b", "a\n", "a\0b", "é", "a" * 129, "-x"]
)
def test_what_could_be_a_path_out_is_no_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        checked_name("name", name)


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("", "/models", ""),
        ("/models/chat/cache", "/models", "chat/cache"),
        ("cache", "/models", "cache"),
        ("cache", "", "cache"),
    ],
)
def test_a_path_below_the_models_is_a_name(path: str, root: str, name: str) -> None:
    assert name_of_path(path, root) == name


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/etc/passwd", "/models"),
        ("/models", "/models"),
        ("/models/../etc/x", "/models"),
        ("/modelsx/a", "/models"),
        ("/a", ""),
        ("../a", "/models"),
    ],
)
def test_a_path_elsewhere_is_refused(path: str, root: str) -> None:
    with pytest.raises(InvalidRequest, match="PromptCachePath"):
        name_of_path(path, root)
