"""`mlx-worker doctor` on this machine, and on models that are whole and broken."""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from backend.doctor import model
from backend.doctor.command import doctor, hub_row
from backend.doctor.finding import Mark, Row
from tests.e2e.terminal import Terminal, environment
from tests.e2e.worker import TINY_CHAT
from tests.engine.loading.hub_stub import REPOSITORY, HubStub

CPU = {"memory": 8 << 30}


def examined(*arguments: str, **added: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and rows by name."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        code = doctor([*arguments, "--json"], environment(**added))
    return code, {row["name"]: row for row in json.loads(out.getvalue())["rows"]}


@pytest.mark.slow
def test_in_a_terminal_every_row_has_its_mark_and_nothing_is_bad() -> None:
    with Terminal("doctor", "--model", str(TINY_CHAT), "--addr", "127.0.0.1:0") as terminal:
        terminal.wait_for(r"\d+ ok, \d+ warn, 0 bad")
        assert terminal.code() == 0
    for name in ("python", "libraries", "one MLX", "device", "BLAS", "memory", "open files", "address", "weights"):
        assert f"  {name} " in terminal.text, name
    assert "qwen3, context 8,192, all files there" in terminal.text.replace("\n", "")
    assert "chat template, tool calls as json_tools, reasons" in terminal.text


def test_what_is_bad_makes_the_exit_code(tmp_path: Path) -> None:
    code, rows = examined("--addr", "0.0.0.0:1", "--prompt-cache-dir", "/proc/none", "--blas", "/no/such.so")
    assert code == 1
    # Elsewhere there is no BLAS to choose.
    bad = {"address", "prompt cache"} | ({"BLAS"} if sys.platform == "linux" else set())
    assert {name for name, row in rows.items() if row["mark"] == "bad"} == bad
    assert "hub" not in rows  # nobody wanted it asked
    assert all(row["advice"].endswith(".") for row in rows.values() if row["mark"] != "ok")


def test_a_wrong_variable_is_named() -> None:
    code, rows = examined(MLX_WORKER_GRACE="soon")
    assert code == 1 and rows["settings"]["found"].startswith("MLX_WORKER_GRACE: ")


def rows_of(path: Path | str, *options: str) -> list[Row]:
    return model.rows(str(path), options, CPU, environment())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(TINY_CHAT, tmp_path / "model")


@pytest.mark.slow
def test_a_model_without_one_of_its_shards_is_refused_by_name(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    [row] = rows_of(copy)
    assert row.mark is Mark.BAD and "model-00002.safetensors: no such file" in row.found


@pytest.mark.slow
def test_the_workers_settings_count_and_the_template_is_tried(copy: Path, tmp_path: Path) -> None:
    template = tmp_path / "elsewhere" / "t.jinja"
    template.parent.mkdir()
    template.write_text("{% for message in messages %}{{ message.content }")
    files = {"MLX_WORKER_ALLOW_FILES": str(template.parent)}
    code, rows = examined(
        *("--model", str(copy), "--addr", "127.0.0.1:0", "--option", f"chat_template_file:{template}"), **files
    )
    assert code == 1 and rows["model"]["mark"] == "ok", rows
    assert rows["tokenizer"]["mark"] == "bad" and "; one message: " in rows["tokenizer"]["found"]
    assert "template" in rows["tokenizer"]["found"].split("; one message: ")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "model.safetensors").write_bytes(b"short"), "model.safetensors: "),
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: "),
        (lambda path: _changed(path / "config.json", model_type="no_such_model"), "no_such_model"),
        (lambda path: _changed(path / "config.json", hidden_size=96), "shape"),
        (lambda path: _changed(path / "config.json", model_file="m.py"), "needs trust_remote_code"),
    ],
)
def test_what_a_load_would_refuse_is_said_without_one(damage: Any, words: str, copy: Path) -> None:
    damage(copy)
    [row] = rows_of(copy)
    assert row.mark is Mark.BAD and words in row.found, row


def _changed(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.slow
def test_a_model_that_does_not_fit_or_has_no_template_is_told(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    _changed(copy / "tokenizer_config.json", chat_template=None)
    files, weights, tokenizer = model.rows(str(copy), (), {"memory": 1 << 20}, environment())
    assert (files.mark, weights.mark, tokenizer.mark) == (Mark.OK, Mark.BAD, Mark.WARN)
    assert "They do not fit" in weights.advice and "no chat template" in tokenizer.found


@pytest.mark.slow
def test_a_hub_name_that_is_not_here_is_no_fault(tmp_path: Path) -> None:
    code, rows = examined("--model", "owner/none", "--addr", "127.0.0.1:0", HF_HOME=str(tmp_path))
    assert code == 0 and rows["model"]["found"] == "not on this machine yet"


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub({"config.json": b"{}", "model.safetensors": b"x" * 4096}) as stub:
        yield stub


@pytest.mark.slow
def test_the_hub_is_asked_whether_it_has_the_model(hub: HubStub, tmp_path: Path) -> None:
    at = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    has = hub_row(REPOSITORY, environment(**at))
    assert has.mark is Mark.OK and has.found.startswith(f"{hub.endpoint} answers, {REPOSITORY}: ")
    assert "offline mode is on" in hub_row("", environment(HF_HUB_OFFLINE="1")).found
    hub.status = 401
    assert hub_row(REPOSITORY, environment(**at)).mark is Mark.BAD
