"""What a stranger's model directory may make a load open, and what it may not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backend.core.errors import ModelLoadFailed
from backend.engine.loading import open_files
from tests.engine.harness import model_config
from tests.tiers import slow

TEMPLATES = "additional_chat_templates"


def refused(path: Path, words: str, **options: Any) -> None:
    """Assert that a load ends in one line with these words."""
    with pytest.raises(ModelLoadFailed, match=words) as failure:
        open_files(model_config(path, **options))
    assert "\n" not in failure.value.message


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of the model's directory."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jinja").write_text("a secret")
    return tmp_path / "elsewhere" / "secret.jinja"


def test_a_named_template_that_leads_out_is_not_read(own_model: Path, secret: Path) -> None:
    (own_model / TEMPLATES).mkdir()
    (own_model / TEMPLATES / "default.jinja").symlink_to(secret)
    refused(own_model, "default.jinja: leads out of the model's directory")


def test_a_folder_of_named_templates_that_leads_out_is_not_read(own_model: Path, secret: Path) -> None:
    (own_model / TEMPLATES).symlink_to(secret.parent)
    refused(own_model, "secret.jinja: leads out of the model's directory")


def test_a_pipe_among_the_named_templates_is_never_opened(own_model: Path) -> None:
    (own_model / TEMPLATES).mkdir()
    os.mkfifo(own_model / TEMPLATES / "default.jinja")
    refused(own_model, "default.jinja: is not a regular file")


def test_named_templates_of_the_model_itself_are_read(own_model: Path) -> None:
    (own_model / TEMPLATES).mkdir()
    (own_model / TEMPLATES / "tool_use.jinja").write_text("for tools")
    assert open_files(model_config(own_model)).tokenizer.chat_template["tool_use"] == "for tools"


@pytest.mark.parametrize(
    "name",
    ["spiece.model", *map(slow, ("sentencepiece.bpe.model", "vocab.bpe", "bpe.codes", "merges.txt")), "vocabulary"],
)
def test_a_tokenizers_file_of_any_name_is_of_the_models_own(own_model: Path, secret: Path, name: str) -> None:
    (own_model / name).symlink_to(secret)
    refused(own_model, f"{name}: leads out of the model's directory")
    (own_model / name).unlink()
    os.mkfifo(own_model / name)
    refused(own_model, f"{name}: is not a regular file")


@pytest.mark.parametrize("name", ["sub/tokenizer.4.json", "../elsewhere/tokenizer.4.json", 4])
def test_a_tokenizer_for_another_version_lies_beside_this_one(own_model: Path, name: object) -> None:
    for place in (own_model / "sub", own_model.parent / "elsewhere"):
        place.mkdir()
        (place / "tokenizer.4.json").write_bytes((own_model / "tokenizer.json").read_bytes())
    settings = json.loads((own_model / "tokenizer_config.json").read_text())
    (own_model / "tokenizer_config.json").write_text(json.dumps(settings | {"fast_tokenizer_files": [name]}))
    refused(own_model, "fast_tokenizer_files")


def test_a_tokenizer_for_another_version_is_found_beside_this_one(own_model: Path) -> None:
    (own_model / "tokenizer.json").rename(own_model / "tokenizer.4.0.0.json")
    (own_model / "tokenizer.json").write_text("{}")
    settings = json.loads((own_model / "tokenizer_config.json").read_text())
    settings["fast_tokenizer_files"] = ["tokenizer.4.0.0.json"]
    (own_model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_files(model_config(own_model)).tokenizer.encode("a") == [97]


LONG_NAME = "n" * 5000


# All of them with each field in make check: two of the fields are handled alike, and begin a process for some.
@pytest.mark.parametrize("name", [LONG_NAME, f"sub/{LONG_NAME}", "a\0b", "/a\0b", "sub/loop", "sub/loop/t", "~\0"])
@pytest.mark.parametrize("field", ["chat_template_file", "tokenizer", slow("adapter")])
def test_a_name_that_no_file_can_have_is_an_answer_in_one_line(own_model: Path, field: str, name: str) -> None:
    (own_model / "sub").mkdir()
    (own_model / "sub" / "loop").symlink_to("loop")
    refused(own_model, r"\S", **{field: name})


def test_a_link_to_itself_in_the_model_is_an_answer_in_one_line(own_model: Path) -> None:
    (own_model / "spiece.model").symlink_to("spiece.model")
    refused(own_model, "spiece.model")


def test_what_may_not_be_looked_at_is_an_answer_in_one_line(own_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may look at everything, so the system is made to refuse.
    real = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    (own_model / "sub").mkdir()
    (own_model / "sub" / "closed").write_text("x")
    monkeypatch.setattr(os, "stat", stat)
    refused(own_model, "chat_template_file.*Permission denied", chat_template_file="sub/closed")
