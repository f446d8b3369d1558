"""A namespace names the weights, the tokenizer and the options: it changes with each of them and with nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig, ModelConfig
from backend.engine.loading.fingerprint import namespace

CONFIG = ModelConfig(identity="m", candidates=())


def name_of(directory: Path, config: ModelConfig = CONFIG, adapter: Path | None = None, facts: str = "float32") -> str:
    return namespace(config, directory, tokenizer=directory, adapter=adapter, facts=facts)


def test_a_copy_has_the_name_of_the_original(own_model: Path, tmp_path: Path) -> None:
    assert name_of(shutil.copytree(own_model, tmp_path / "copy")) == name_of(own_model)


def _append(name: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes() + b" ")


def _touch(path: Path) -> None:
    os.utime(path / "model.safetensors", ns=(1, 1))


def _edit_header(path: Path) -> None:
    """Another header of equal length, at the same time of modification."""
    file = path / "model.safetensors"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(file.read_bytes().replace(b"F32", b"I32", 1))
    os.utime(file, ns=times)


@pytest.mark.parametrize(
    "change",
    [
        _append("config.json"),
        _append("tokenizer.json"),
        _append("tokenizer_config.json"),
        _append("model.safetensors"),
        _touch,
        _edit_header,
        lambda path: (path / "generation_config.json").write_text("{}"),
        lambda path: (path / "model.safetensors").rename(path / "model-1.safetensors"),
    ],
)
def test_every_file_that_matters_changes_the_name(own_model: Path, change: Callable[[Path], Any]) -> None:
    before = name_of(own_model)
    change(own_model)
    assert name_of(own_model) != before


def test_code_of_the_models_own_changes_the_name_where_it_may_run(own_model: Path) -> None:
    trusting = ModelConfig(identity="m", candidates=(), trust_remote_code=True)
    names = {name_of(own_model, trusting)}
    for name in ("own.py", "compiled.pyc", "library.cpython-311-x86_64-linux-gnu.so"):
        for code in ("one = 1", "one = 2"):
            (own_model / name).write_text(code)
            names.add(name_of(own_model, trusting))
    assert len(names) == 7
    (own_model / "large.py").write_bytes(b"#" * (5 << 20))
    assert name_of(own_model, trusting) not in names
    with_code = name_of(own_model)
    (own_model / "own.py").unlink()
    assert name_of(own_model) == with_code, "none of it may run"


def test_options_and_facts_change_the_name(own_model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    shutil.copy2(own_model / "model.safetensors", adapter / "adapters.safetensors")
    names = {
        name_of(own_model),
        name_of(own_model, ModelConfig(identity="m", candidates=(), max_kv_size=64)),
        name_of(own_model, adapter=adapter),
        name_of(own_model, facts="bfloat16"),
    }
    assert len(names) == 4


def test_what_has_no_part_in_the_kv_does_not_change_the_name(own_model: Path) -> None:
    before = name_of(own_model)
    (own_model / "README.md").write_text("new")
    assert name_of(own_model, ModelConfig(identity="other", candidates=("x",), context=100)) == before


def test_every_form_of_keys_and_values_has_a_name_of_its_own(own_model: Path) -> None:
    def named(cache_bits: int | None = None, **engine: int | None) -> str:
        options = {"engine": EngineConfig(**engine), "cache": CacheConfig(kv_bits=cache_bits)}  # type: ignore[arg-type]
        return name_of(own_model, ModelConfig(identity="m", candidates=(), **options))  # type: ignore[arg-type]

    names = [
        named(),
        named(kv_bits=4),
        named(kv_bits=8),
        named(kv_bits=8, kv_group_size=32),
        named(kv_bits=8, quantized_kv_start=100),
        named(8),
        named(4),
        named(4, kv_group_size=32),
    ]
    assert len(set(names)) == len(names)
    # Without codes nothing else of it counts.
    assert named(kv_group_size=32, quantized_kv_start=5) == named() == name_of(own_model)
