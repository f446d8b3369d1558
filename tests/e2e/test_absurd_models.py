"""Files of a model that are far too large, and numbers in them that cannot be: a sentence, and a worker as before."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import prompt, stream
from tests.e2e.oracle import GREEDY
from tests.e2e.test_loading import refused
from tests.e2e.worker import TINY_CHAT, Worker

HUGE = 3 << 30  # sparse: it takes no room on the disk
slow = pytest.mark.slow
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is told in /proc")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model directory to spoil."""
    return Path(shutil.copytree(TINY_CHAT, tmp_path / "spoilt"))


def with_numbers(folder: Path, **numbers: object) -> Path:
    """The folder, with these entries in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | numbers))
    return folder


def peak_bytes(worker: Worker) -> int:
    """The most memory that the worker has ever had."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def grow(file: Path, size: int = HUGE) -> None:
    """Make a file this large, of zeros behind what it has."""
    file.touch()
    os.truncate(file, size)


@linux
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "model.safetensors.index.json",
        "modules.json",
        "config_sentence_transformers.json",
        "additional_chat_templates/tool_use.jinja",
    ],
)
def test_a_file_that_is_far_too_large_is_refused_unread(worker: Worker, copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    grow(copy / name)
    before = peak_bytes(worker)
    message = refused(worker, copy, name, f"{HUGE} bytes")
    assert "at most" in message
    assert peak_bytes(worker) - before < 128 << 20
    assert stream(worker.stub, GREEDY).text == stream(worker.stub, GREEDY).text != ""


@linux
def test_so_is_one_that_a_load_names(worker: Worker, copy: Path, tmp_path: Path) -> None:
    adapter = copy / "adapter"
    adapter.mkdir()
    grow(adapter / "adapter_config.json")
    grow(copy / "other.txt")
    before = peak_bytes(worker)
    refused(worker, copy, "adapter_config.json", f"{HUGE} bytes", LoraAdapter="adapter")
    refused(worker, copy, "other.txt", f"{HUGE} bytes", Options=["chat_template_file:other.txt"])
    assert peak_bytes(worker) - before < 128 << 20


@slow
@linux
def test_the_memory_of_a_load_that_failed_over_its_files_is_back(worker: Worker, copy: Path) -> None:
    # Some 200 MiB of Python's numbers, once they are parsed.
    (copy / "tokenizer.json").write_text("[" + "1.5," * (6 << 20) + "1]")
    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    refused(worker, copy, "tokenizer.json")
    assert process.memory_info().rss - before < 48 << 20


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("num_hidden_layers", 20_000),
        pytest.param("num_hidden_layers", 10**9, marks=slow),
        pytest.param("num_hidden_layers", float("inf"), marks=slow),
        ("vocab_size", 10**12),
        pytest.param("hidden_size", 2**40, marks=slow),
        pytest.param("intermediate_size", 2**62, marks=slow),
        pytest.param("num_attention_heads", 10**9, marks=slow),
    ],
)
def test_a_number_that_the_weights_cannot_bear_out_is_refused_before_anything_is_made(
    worker: Worker, copy: Path, name: str, number: float
) -> None:
    refused(worker, with_numbers(copy, **{name: number}), "config.json", name, str(number))
    assert stream(worker.stub, GREEDY).text


@slow
def test_a_number_in_a_nested_configuration_is_refused_as_well(worker: Worker, copy: Path) -> None:
    with_numbers(copy, text_config={"num_hidden_layers": 20_000})
    refused(worker, copy, "config.json", "num_hidden_layers", "20000")


@pytest.mark.parametrize(
    "numbers",
    [
        {"vocab_size": 0},
        {"architectures": 5},
        {"eos_token_id": [2] * 10**6},
        *(
            pytest.param(entry, marks=slow)
            for entry in (
                {"num_hidden_layers": 0},
                {"num_hidden_layers": -1},
                {"num_hidden_layers": 1e3},
                {"num_attention_heads": 0},
                {"num_key_value_heads": 0},
                {"head_dim": 0},
                {"hidden_size": 0},
                {"rope_theta": 0},
                {"rms_norm_eps": float("nan")},
                {"rms_norm_eps": -1e9},
                {"eos_token_id": ["x"]},
                {"quantization": {"group_size": 0, "bits": 0}},
                {"quantization": "x"},
                {"rope_scaling": {"type": "yarn", "factor": 0}},
                {"tie_word_embeddings": "x", "vocab_size": "x"},
            )
        ),
    ],
    ids=lambda entry: str(entry)[:40],
)
def test_whatever_python_says_of_a_number_the_file_is_named(
    worker: Worker, copy: Path, numbers: dict[str, object]
) -> None:
    result = worker.load(with_numbers(copy, **numbers))
    assert result.success or "config.json" in result.message, result.message


@pytest.mark.parametrize("content", ['{"eos_token_id": [1, "x"]}', "[1]", '"text"'])
def test_what_is_wrong_in_the_generation_config_is_named(worker: Worker, copy: Path, content: str) -> None:
    (copy / "generation_config.json").write_text(content)
    refused(worker, copy, "generation_config.json")


ODD = "\u202e\x1b[31m\x00\u2066\u200b\x07"


def shows(text: str) -> bool:
    """Whether no character of it is hidden, or turns what stands around it."""
    return not {unicodedata.category(one) for one in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    "fields",
    [
        lambda: {"Model": f"/no{ODD}where"},
        lambda: {"Model": str(TINY_CHAT), "Options": [f"dtype:{ODD}"]},
        lambda: {"Model": str(TINY_CHAT), "LoraAdapter": f"a{ODD}"},
        lambda: {"Model": str(TINY_CHAT), "Options": [f"kv{ODD}bits:4", f"max_rows:{ODD}"]},
    ],
)
def test_no_message_hides_a_character_or_turns_its_text(
    worker: Worker, fields: Callable[[], dict[str, object]]
) -> None:
    lines = len(worker.log.lines)
    result = worker.stub.LoadModel(pb.ModelOptions(**fields()), timeout=60)  # type: ignore[arg-type]
    assert not result.success
    assert shows(result.message), ascii(result.message)
    answer = stream(worker.stub, prompt("a", 1, ModelIdentity=f"x{ODD}"))
    assert shows(answer.details), ascii(answer.details)
    assert all(shows(line.rstrip("\n")) for line in worker.log.lines[lines:])


def test_what_is_wrong_with_json_in_an_option_is_said_in_a_sentence(worker: Worker) -> None:
    message = refused(worker, TINY_CHAT, "chat_template_kwargs", Options=['chat_template_kwargs:{"a": NaN}'])
    assert "it:" not in message
