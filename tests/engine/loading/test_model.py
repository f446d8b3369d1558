"""Loads of real model directories, whole and broken."""

import gc
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_load
from mlx_lm.models.cache import RotatingKVCache
from mlx_lm.tuner.utils import linear_to_lora_layers

from backend.config import EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.kv.row_caches import nbytes
from backend.engine.kv.spare import beyond
from backend.engine.loading import LoadedModel, load_model, open_files
from backend.engine.loading.dtype import preferred_dtype
from tests.architectures import catalogue
from tests.engine.loading.conftest import WriteModel
from tests.engine.loading.hub_stub import HubStub
from tests.models import FAMILIES, IM_END, QUICK_FAMILIES, write_model, write_tokenizer
from tests.tiers import slow

TOKENS = mx.array([[72, 101, 108, 108, 111]])


def load(path: Path, **options: Any) -> LoadedModel:
    return load_model(asked(path, **options))


def asked(path: Path, **options: Any) -> ModelConfig:
    return ModelConfig(identity="m", candidates=(str(path),), **options)


def logits_of(loaded: LoadedModel) -> np.ndarray:
    return np.array(loaded.model(TOKENS, cache=loaded.new_cache()).astype(mx.float32))


@pytest.mark.parametrize("family", [f if f in QUICK_FAMILIES else slow(f) for f in FAMILIES])
def test_a_model_answers_as_mlx_lm_loads_it(written_model: WriteModel, family: str) -> None:
    path = written_model(family)
    loaded = load(path)
    reference, _ = mlx_load(str(path))
    assert np.array_equal(logits_of(loaded), np.array(reference(TOKENS)))
    assert loaded.batchable == (family != "llama4")
    assert loaded.vocab_size == 272
    assert loaded.eos_ids == {IM_END}
    assert loaded.context_length == 4096
    assert loaded.dtype == "float32"
    assert loaded.weight_bytes == (path / "model.safetensors").stat().st_size - header_bytes(path)
    assert loaded.device.startswith("cpu" if mx.default_device() == mx.Device(mx.cpu) else "gpu")


def header_bytes(path: Path) -> int:
    with (path / "model.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_a_model_whose_caches_cannot_be_merged_is_serial_and_says_why(written_model: WriteModel) -> None:
    loaded = load(written_model("llama4"))
    assert not loaded.batchable
    assert "ChunkedKVCache" in loaded.serial_reason


def test_the_cost_of_kv_is_that_of_real_caches(written_model: WriteModel) -> None:
    """Lengths that fill the blocks in which mlx-lm's caches grow, so that nothing is slack."""
    for family in ("qwen3", "qwen3_next", "mamba2", "falcon_h1"):
        loaded = load(written_model(family))
        caches = loaded.new_cache()
        loaded.model(mx.ones((1, 512), dtype=mx.int32), cache=caches)
        assert loaded.kv_cost.bytes_for(512) == sum(cache.nbytes for cache in caches), family
    windowed = load(written_model("gemma3_text"))
    assert windowed.kv_cost.bytes_for(64) == 2 * 256 * 64
    assert windowed.kv_cost.bytes_for(1000) == 256 * (64 + beyond(64)) + 256 * 1000


@pytest.mark.slow
def test_the_cost_of_codes_is_that_of_real_caches_and_of_numbers_below_their_start(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", "qwen3_next", extra={"head_dim": 64})
    loaded, later = (load(path, engine=EngineConfig(kv_bits=4, quantized_kv_start=start)) for start in (0, 512))
    for one in (loaded, later):
        caches = one.new_cache()
        one.model(mx.ones((1, 512), dtype=mx.int32), cache=caches)
        assert one.kv_cost.bytes_for(512) == nbytes(caches)
    assert later.kv_cost.bytes_for(512) > 3 * loaded.kv_cost.bytes_for(512) - 2 * loaded.kv_cost.fixed
    assert later.kv_cost.bytes_for(100_000) == loaded.kv_cost.bytes_for(100_000)
    assert (loaded.score_bytes, load(path).score_bytes) == (4 * 4, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_experts_in_a_type_that_the_cpu_cannot_multiply_are_cast(
    written_model: WriteModel, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load(written_model("qwen3_moe", dtype), dtype=dtype)
    assert loaded.dtype == "float32"
    assert f"dtype_adapted was={dtype} now=float32" in caplog.text
    assert np.isfinite(logits_of(loaded)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_cpu_computes_half_precision_in_float32_unless_told_otherwise(written_model: WriteModel, dtype: str) -> None:
    path = written_model("qwen3", dtype)
    assert load(path).dtype == "float32"
    kept = load(path, dtype=dtype)
    assert kept.dtype == dtype
    reference, _ = mlx_load(str(path))
    assert np.array_equal(logits_of(kept), np.array(reference(TOKENS).astype(mx.float32)))
    with pytest.raises(ModelLoadFailed, match="dtype: must be one of"):
        load(path, dtype="int4")


def test_what_would_not_fit_in_float32_stays_as_it_is() -> None:
    weights = [mx.zeros(1000, dtype=mx.float16), mx.zeros(100)]
    assert preferred_dtype(weights, memory_bytes=2 * 4400) == "float32"
    assert preferred_dtype(weights, memory_bytes=2 * 4400 - 1) == ""
    assert preferred_dtype(weights[1:]) == ""


def test_max_kv_size_gives_rotating_caches_that_keep_the_first_tokens_and_decode_alone(
    written_model: WriteModel,
) -> None:
    loaded = load(written_model(), max_kv_size=32)
    assert all(type(cache) is RotatingKVCache and cache.keep == 4 for cache in loaded.new_cache())
    assert not loaded.batchable
    assert "max_kv_size" in loaded.serial_reason
    with pytest.raises(ModelLoadFailed, match="max_kv_size: must be at least 16"):
        load(written_model(), max_kv_size=4)


def test_max_kv_size_is_said_to_be_without_effect_where_the_model_makes_its_own_caches(
    written_model: WriteModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(written_model("gemma3_text"), max_kv_size=32).batchable
    assert "max_kv_size_ignored" in caplog.text


def test_a_quantised_checkpoint_loads(tmp_path: Path, written_model: WriteModel) -> None:
    from mlx_lm.utils import quantize_model, save_config

    model, _, config = mlx_load(str(written_model()), return_config=True)
    model, config = quantize_model(model, config, group_size=32, bits=4)
    shutil.copytree(written_model(), tmp_path / "q")
    mx.save_safetensors(str(tmp_path / "q" / "model.safetensors"), dict(_flat(model)))
    save_config(config, tmp_path / "q" / "config.json")
    loaded = load(tmp_path / "q")
    assert np.array_equal(logits_of(loaded), np.array(model(TOKENS)))
    assert loaded.weight_bytes < load(written_model()).weight_bytes / 3


def _flat(model: Any) -> list[Any]:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())


# --- what may be wrong with a directory


def _write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: (path / name).write_bytes(data) and None


def _edit(**entries: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        config = json.loads((path / "config.json").read_text()) | entries
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return edit


def _weights(change: Callable[[dict[str, mx.array]], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        weights = mx.load(str(path / "model.safetensors"))
        assert isinstance(weights, dict)
        mx.eval(weights)
        change(weights)
        (path / "model.safetensors").unlink()
        mx.save_safetensors(str(path / "model.safetensors"), weights)

    return rewrite


def _truncate(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


NORM = "model.norm.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), r"config\.json: no such file"),
    "config is no JSON": (_write("config.json", "{"), r"config\.json: Expecting"),
    "config is a list": (_write("config.json", "[]"), r"config\.json: is not a JSON object"),
    "config is not UTF-8": (_write("config.json", b'{"model_type": "\xff"}'), r"config\.json: .*utf-8"),
    "no model_type": (_edit(model_type=...), r"config\.json: has no model_type"),
    "unknown model_type": (
        _edit(model_type="perceptron"),
        "config.json, with the weights beside it: Model type perceptron not supported",
    ),
    "an entry is missing": (_edit(hidden_size=...), "config.json, with the weights beside it: .*hidden_size"),
    "an entry is of another type": (_edit(hidden_size="64"), "config.json, with the weights beside it: "),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), r"model: has no model\*\.safetensors$"),
    "weights of another format": (
        lambda path: (path / "model.safetensors").rename(path / "weights.gguf"),
        r"has no model\*\.safetensors; weights\.gguf is not in a format",
    ),
    "cut weights": (_truncate, r"model\.safetensors: .*not fully covered"),
    "a missing shard": (
        _write("model.safetensors.index.json", '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'),
        r"model-00002-of-00002\.safetensors: no such file, but model\.safetensors\.index\.json lists it",
    ),
    "an index without a map": (_write("model.safetensors.index.json", "{}"), r"index\.json: has no weight_map"),
    "a tensor is missing": (_weights(lambda w: w.pop(NORM)), f"config.json, with the weights beside it: .*{NORM}"),
    "a tensor too many": (_weights(lambda w: w.update(extra=mx.zeros(3))), "model: .*extra"),
    "a tensor of another shape": (
        _weights(lambda w: w.update({NORM: mx.zeros(65)})),
        f"config.json, with the weights beside it: .*{NORM}",
    ),
    "weights are not numbers": (
        _weights(lambda w: w.update({NORM: mx.full(64, float("nan"))})),
        "config.json, with the weights beside it: the model does not run: the logits are not numbers",
    ),
    "no tokenizer": (
        lambda path: [(path / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "model: has no tokenizer",
    ),
    "tokenizer is no JSON": (_write("tokenizer.json", "{"), r"tokenizer\.json: Expecting"),
    "tokenizer without a model": (_write("tokenizer.json", "{}"), "tokenizer"),
    "remote code": (_edit(model_file="code.py"), r"config\.json: model_file 'code\.py' needs trust_remote_code"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_directory_is_refused_in_one_line_that_names_the_file(own_model: Path, fault: str) -> None:
    breaks, says = BROKEN[fault]
    breaks(own_model)
    with pytest.raises(ModelLoadFailed, match=says) as failure:
        load(own_model)
    assert str(own_model) in failure.value.message
    assert "\n" not in failure.value.message
    assert len(failure.value.message) < 700


def test_a_failed_load_leaves_no_weights_behind_even_while_its_error_is_kept(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", hidden=256)
    (path / "tokenizer.json").write_text("{}")
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    with pytest.raises(ModelLoadFailed) as failure:
        load(path)
    assert mx.get_active_memory() == before
    assert failure.value.message


@pytest.mark.slow
def test_a_dropped_model_gives_its_memory_back(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", hidden=256)
    gc.collect()
    before = mx.get_active_memory()
    loaded = load(path)
    assert mx.get_active_memory() - before >= loaded.weight_bytes
    del loaded
    gc.collect()
    # The positions that layers shared last are a few numbers.
    assert mx.get_active_memory() - before < 128


def test_weights_do_not_change_when_their_file_does(own_model: Path) -> None:
    loaded = load(own_model)
    before = logits_of(loaded)
    file = own_model / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(header_bytes(own_model))
        opened.write(bytes(file.stat().st_size - header_bytes(own_model)))
    assert np.array_equal(logits_of(loaded), before)


def test_a_cancelled_load_ends_as_such(written_model: WriteModel) -> None:
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 1

    with pytest.raises(ModelLoadFailed, match="loading was cancelled"):
        load_model(ModelConfig(identity="m", candidates=(str(written_model()),)), cancelled=cancelled)


def test_progress_ends_with_all_weight_bytes(written_model: WriteModel) -> None:
    seen: list[tuple[str, int, int]] = []
    config = ModelConfig(identity="m", candidates=(str(written_model()),))
    loaded = load_model(config, progress=lambda *report: seen.append(report))
    assert seen[-1] == ("weights", loaded.weight_bytes, loaded.weight_bytes)


def test_a_local_model_needs_no_network(
    written_model: WriteModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every connection that the load tries is refused here and counted."""
    import socket

    tried: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: tried.append(address))
    with HubStub({}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        load(written_model())
    assert (tried, hub.requests) == ([], [])


# --- remote code, adapters, tokenizers, templates

CODE = "from mlx_lm.models.qwen3 import Model, ModelArgs\n"


def test_trusted_code_of_the_directory_runs(own_model: Path) -> None:
    (own_model / "code.py").write_text(CODE)
    _edit(model_file="code.py")(own_model)
    assert load(own_model, trust_remote_code=True).batchable


@pytest.mark.parametrize("code", ["../code.py", "/etc/hostname", "absent.py", 7])
def test_trust_ends_at_the_directory(own_model: Path, code: Any) -> None:
    (own_model.parent / "code.py").write_text(CODE)
    _edit(model_file=code)(own_model)
    with pytest.raises(ModelLoadFailed, match="is not a file of the model's directory"):
        load(own_model, trust_remote_code=True)


def test_whatever_trusted_code_raises_becomes_the_answer(own_model: Path) -> None:
    (own_model / "code.py").write_text("raise ZeroDivisionError('in code')\n")
    _edit(model_file="code.py")(own_model)
    with pytest.raises(ModelLoadFailed, match="in code"):
        load(own_model, trust_remote_code=True)


@pytest.fixture
def adapter(tmp_path: Path, written_model: WriteModel) -> Path:
    """A LoRA adapter that changes the answers."""
    model, _ = mlx_load(str(written_model()))
    parameters = {"rank": 4, "scale": 10.0, "dropout": 0.0}
    model.freeze()
    linear_to_lora_layers(model, 1, parameters)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters})
    )
    from mlx.utils import tree_flatten

    weights = {name: mx.ones(array.shape) * 0.1 for name, array in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


def test_an_adapter_changes_answers_and_the_name_of_the_kv(written_model: WriteModel, adapter: Path) -> None:
    plain, adapted = load(written_model()), load(written_model(), adapter=str(adapter), file_roots=(str(adapter),))
    reference, _ = mlx_load(str(written_model()), adapter_path=str(adapter))
    assert np.array_equal(logits_of(adapted), np.array(reference(TOKENS)))
    assert not np.allclose(logits_of(adapted), logits_of(plain))
    assert adapted.namespace != plain.namespace


def test_an_adapter_may_lie_in_the_model_directory(own_model: Path, adapter: Path) -> None:
    shutil.copytree(adapter, own_model / "lora")
    load(own_model, adapter="lora")


def test_a_broken_adapter_is_named(written_model: WriteModel, adapter: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="LoraAdapter: model path does not exist: /nonexistent/lora"):
        load(written_model(), adapter="/nonexistent/lora")
    (adapter / "adapters.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelLoadFailed, match=str(adapter)):
        load(written_model(), adapter=str(adapter), file_roots=(str(adapter),))
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(ModelLoadFailed, match=r"adapter_config\.json"):
        load(written_model(), adapter=str(adapter), file_roots=(str(adapter),))


def test_another_tokenizer_and_template_are_used_as_asked(written_model: WriteModel, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_tokenizer(folder, chat_template="from the other tokenizer")
    (tmp_path / "template.jinja").write_text("from the file")

    def rendered(**options: Any) -> str:
        tokenizer = open_files(asked(written_model(), file_roots=(str(tmp_path),), **options)).tokenizer
        return tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)

    assert rendered().startswith("<|im_start|>user")
    assert rendered(tokenizer=str(folder)) == "from the other tokenizer"
    assert rendered(chat_template="from the option") == "from the option"
    assert rendered(chat_template_file=str(tmp_path / "template.jinja")) == "from the file"
    with pytest.raises(ModelLoadFailed, match="Tokenizer: model path does not exist: /nonexistent/t"):
        load(written_model(), tokenizer="/nonexistent/t")
    with pytest.raises(ModelLoadFailed, match="chat_template_file: /nonexistent/t"):
        load(written_model(), chat_template_file="/nonexistent/t")


def test_end_tokens_of_a_nested_configuration_are_found(own_model: Path) -> None:
    _edit(eos_token_id=..., text_config={"eos_token_id": [256, 999]})(own_model)
    assert load(own_model).eos_ids == {256, IM_END}


def test_a_configuration_that_transformers_does_not_know_is_no_reason_to_refuse_the_tokenizer(tmp_path: Path) -> None:
    """Its check of config.json knows fewer kinds of layers than mlx-lm."""
    path = catalogue.write(tmp_path / "gear", "gear")
    assert load(path).tokenizer.encode("text") == list(b"text")
