"""Loads that cannot be: each says in one line what is wrong, and the worker goes on."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import prompt, stream
from tests.e2e.worker import TINY_CHAT, Worker

Spoil = Callable[[Path], None]


def refused(worker: Worker, folder: Path | str, *words: str, **fields: Any) -> str:
    """Assert that a load fails in one line with these words; the line."""
    result = worker.load(folder, *fields.pop("Options", ()), **fields)
    assert not result.success
    assert "\n" not in result.message
    assert len(result.message.encode()) <= 1024
    for word in words:
        assert word.lower() in result.message.lower(), result.message
    return result.message


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model directory to spoil."""
    return Path(shutil.copytree(TINY_CHAT, tmp_path / "spoilt"))


def header_of(folder: Path) -> tuple[dict[str, object], bytes]:
    """The safetensors header, and what follows it."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Rewrite the safetensors header."""
    header, body = header_of(folder)
    change(header)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def cut(size: int) -> Spoil:
    """Keep the first bytes of the weights."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def written(name: str, data: bytes) -> Spoil:
    """Replace a file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return spoil


def without(name: str) -> Spoil:
    """Remove a file."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()

    return spoil


def config_with(**entries: object) -> Spoil:
    """Change config.json."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | entries))

    return spoil


def first_tensor(entry: str, value: object) -> Spoil:
    """Lie about a tensor."""

    def change(header: dict[str, object]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header[name] = {**header[name], entry: value}  # type: ignore[dict-item]

    return lambda folder: with_header(folder, change)


def renamed_tensor(folder: Path) -> None:
    """Give a tensor a name that no model has."""

    def change(header: dict[str, object]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header["model.nonsense.weight"] = header.pop(name)

    with_header(folder, change)


ROW_30: list[tuple[str, Spoil, str]] = [
    ("no weights", without("model.safetensors"), "safetensors"),
    ("no config", without("config.json"), "config.json"),
    ("no tokenizer", without("tokenizer.json"), "tokenizer"),
    ("broken config", written("config.json", b"{not json"), "config.json"),
    ("deep config", written("config.json", b"[" * 100_000), "config.json"),
    ("config is a list", written("config.json", b"[1]"), "config.json"),
    ("unknown type", config_with(model_type="no_such_model"), "no_such_model"),
    ("other shapes", config_with(hidden_size=64), "model.embed_tokens.weight"),
    ("other names", renamed_tensor, "nonsense"),
    ("broken tokenizer", written("tokenizer.json", b"{}"), "tokenizer"),
]
ROW_31: list[tuple[str, Spoil, str]] = [
    ("empty file", cut(0), "model.safetensors"),
    ("cut in the header", cut(100), "model.safetensors"),
    ("cut in the body", cut(1_000_000), "model.safetensors"),
    ("length of 2^62", written("model.safetensors", struct.pack("<Q", 1 << 62) + b"{}"), "model.safetensors"),
    ("pickle", written("model.safetensors", b"\x80\x04\x95" + b"x" * 64), "model.safetensors"),
    ("not UTF-8", written("model.safetensors", struct.pack("<Q", 4) + b"\xff\xfe{}"), "model.safetensors"),
    ("wrong offsets", first_tensor("data_offsets", [0, 1 << 50]), "model.safetensors"),
    ("negative offsets", first_tensor("data_offsets", [-8, 8]), "model.safetensors"),
    ("bad dtype", first_tensor("dtype", "F13"), "model.safetensors"),
    ("lying shape", first_tensor("shape", [1 << 40, 1 << 40]), "model.safetensors"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "words"), [row[1:] for row in ROW_30], ids=[row[0] for row in ROW_30])
def test_a_model_directory_with_something_missing_or_wrong(
    worker: Worker, copy: Path, spoil: Spoil, words: str
) -> None:
    """Names the file, its field or the tensor; nothing half-loaded."""
    spoil(copy)
    refused(worker, copy, str(copy), words)
    assert worker.info.Get(pb.InfoRequest(), timeout=60).model in ("", str(TINY_CHAT))


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "words"), [row[1:] for row in ROW_31], ids=[row[0] for row in ROW_31])
def test_weights_that_are_cut_or_lie(worker: Worker, copy: Path, spoil: Spoil, words: str) -> None:
    """MLX must not be trusted to notice, nor to raise one kind of error."""
    spoil(copy)
    refused(worker, copy, words)


def test_a_path_that_is_not_there_asks_no_network(worker: Worker) -> None:
    """An absolute path is a path."""
    refused(worker, "/nonexistent/model", "does not exist")
    refused(worker, "", "Model")
    assert stream(worker.stub, prompt("Once upon", 2)).last.tokens == 2  # what was loaded stays


@pytest.mark.slow
def test_weights_that_change_on_disk_change_nothing(worker: Worker, copy: Path) -> None:
    """Everything is in memory once LoadModel has answered."""
    worker.must_load(copy)
    request = prompt("Once upon a time", 12, Logprobs=1)
    expected = stream(worker.stub, request).last.logprobs
    path = copy / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\x3c" * (size // 2))
    request.PromptCacheRO = True
    assert stream(worker.stub, request).last.logprobs == expected
    cut(1000)(copy)
    fresh = prompt("Tell me about the sea", 8)
    assert stream(worker.stub, fresh).last.tokens > 0
    assert stream(worker.stub, request).last.logprobs == expected


def test_code_in_a_model_directory_is_not_run(worker: Worker, copy: Path, tmp_path: Path) -> None:
    """Neither `model_file` nor a tokenizer's `auto_map`, whatever the request trusts."""
    trace = tmp_path / "it-ran"
    (copy / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config_with(model_file="evil.py")(copy)
    refused(worker, copy, "trust_remote_code")
    refused(worker, copy, "trust_remote_code", TrustRemoteCode=True)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": [None, "evil.Tokenizer"]}, "tokenizer_class": "EvilTokenizer"}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    config_with(model_file=None)(copy)
    worker.load(copy)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"EngineArgs": '{"no_such_key": 1}'}, "no_such_key"),
        ({"EngineArgs": "{not json"}, "EngineArgs"),
        ({"EngineArgs": '{"max_rows": "many"}'}, "max_rows"),
        ({"Options": ["max_rows:many"]}, "max_rows"),
        ({"Options": ["top_p:7"]}, "top_p"),
        ({"ContextSize": -1}, "ContextSize"),
        ({"DType": "float13"}, "DType"),
        ({"LoraAdapter": "/nonexistent/adapter"}, "adapter"),
        ({"Tokenizer": "/nonexistent/tokenizer"}, "tokenizer"),
    ],
)
def test_a_broken_option_is_named(worker: Worker, fields: dict[str, object], words: str) -> None:
    options = fields.pop("Options", ())
    result = worker.load(TINY_CHAT, *options, **fields)  # type: ignore[misc]
    assert not result.success
    assert words.lower() in result.message.lower()


def test_an_option_that_hosts_add_of_their_own_is_one_warning(worker: Worker) -> None:
    before = len(worker.log.lines)
    worker.must_load(TINY_CHAT, "some_hosts_key:1")
    assert "some_hosts_key" in worker.log.wait_for("level=warning.*", 10, after=before)[0]


def test_a_failed_load_leaves_no_model_of_two(worker: Worker, copy: Path) -> None:
    cut(1_000_000)(copy)
    running = stream(worker.stub, prompt("Once upon a time", 4))
    assert running.last.tokens == 4
    refused(worker, copy)
    worker.must_load()
    again = stream(worker.stub, prompt("Once upon a time", 4))
    assert again.text == running.text


def test_a_pipe_in_place_of_a_file_is_refused_and_the_worker_goes_on(worker: Worker, copy: Path) -> None:
    os.mkfifo(copy / "pipe.jinja")
    refused(worker, copy, "pipe.jinja", "not a regular file", Options=["chat_template_file:pipe.jinja"])
    (copy / "model.safetensors").unlink()
    os.mkfifo(copy / "model.safetensors")
    refused(worker, copy, "model.safetensors", "not a regular file")
    worker.must_load()


def test_the_workers_own_secrets_are_no_template(worker: Worker, copy: Path) -> None:
    refused(worker, copy, "chat_template_file", Options=["chat_template_file:/proc/self/environ"])
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    (copy / "chat_template.jinja").symlink_to("/proc/self/environ")
    refused(worker, copy, "chat_template.jinja")


@pytest.mark.slow
def test_a_file_address_may_have_encoded_characters(worker: Worker, copy: Path) -> None:
    spaced = copy.rename(copy.with_name("with space"))
    worker.must_load(f"file://{str(spaced).replace(' ', '%20')}")
