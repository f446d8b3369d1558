"""What a load makes of the files that a model may do without."""

from pathlib import Path

import pytest

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.checkpoint import check_config, read_json
from backend.engine.loading.sizes import limit_of

FILE = "generation_config.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


@pytest.mark.parametrize("content", [None, b"", b"null", b"{", b"no JSON", b"{}", b'{"eos_token_id": [1, 2]}'])
def test_a_generation_config_that_mlx_lm_does_without_is_no_reason_not_to_load(
    model: Path, content: bytes | None
) -> None:
    if content is not None:
        (model / FILE).write_bytes(content)
    check_config(model, trust_remote_code=False)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "is not a JSON object"),
        (b"5", "is not a JSON object"),
        (b'"\xff"', "codec can't decode"),
        (b'{"eos_token_id": ["a"]}', "eos_token_id lists"),
        (b" " * ((limit_of(FILE) or 0) + 1), "are read of such a file"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_a_generation_config_that_would_fail_the_load_later_is_named(model: Path, content: bytes, why: str) -> None:
    (model / FILE).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=rf"{FILE}: .*{why}"):
        check_config(model, trust_remote_code=False)


@pytest.mark.parametrize("content", [None, b"", b"null", b"no JSON"])
def test_a_file_that_is_needed_is_forgiven_nothing(model: Path, content: bytes | None) -> None:
    if content is not None:
        (model / FILE).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=FILE):
        read_json(model / FILE)
