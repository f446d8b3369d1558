"""The trial of real architectures that stay in half precision."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model as load_checkpoint
from mlx_lm.utils import quantize_model, save_config

from backend.engine.loading import LoadedModel, load_model
from tests.architectures import catalogue
from tests.engine.harness import model_config


def loaded(folder: Path, module: str) -> LoadedModel:
    """The module's small model in bfloat16; experts are packed, since a CPU has no other kernel for them in it."""
    path = catalogue.write(folder / module, module, dtype="bfloat16")
    model, config = load_checkpoint(path)

    def packed(_: str, layer: Any) -> bool:
        return "Switch" in type(layer).__name__ and hasattr(layer, "to_quantized")

    if any(packed("", layer) for layer in model.modules()):
        model, config = quantize_model(model, config, group_size=32, bits=8, quant_predicate=packed)
        mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
        save_config(config, path / "config.json")
    return load_model(model_config(path, dtype="bfloat16"))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["afm7", "minimax_m3_vl"])
def test_what_mlx_lm_batches_wrongly_is_found_out_in_half_precision_too(tmp_path: Path, module: str) -> None:
    found = loaded(tmp_path, module)
    assert found.dtype == "bfloat16"
    assert "rows decode differently together" in found.serial_reason


@pytest.mark.parametrize(
    "module",
    [
        *("llama", "gemma3_text", "gpt_oss"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("qwen3", "qwen3_next", "mamba2", "plamo3", "longcat_flash", "bailing_moe_v3")
        ),
    ],
)
def test_what_mlx_lm_batches_rightly_stays_batched_in_half_precision(tmp_path: Path, module: str) -> None:
    found = loaded(tmp_path, module)
    assert found.dtype == "bfloat16"
    assert found.serial_reason == ""
