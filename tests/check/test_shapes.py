"""Checkpoints of random weights: the arrays that mlx-lm's model wants, and numbers that behave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from backend.check.random_tokenizer import BYTES, LEAST_VOCAB
from backend.check.shapes import BITS, GROUP, SHAPES, Shape, config_of, parts_of, write_checkpoint
from backend.engine.loading import load_model
from tests.engine.harness import model_config
from tests.tiers import slow

NAMES = {"BF16": "bfloat16", "F32": "float32", "U32": "uint32"}
SMALL = Shape(hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2, head_dim=64, vocab=2048)


@pytest.mark.parametrize("name", SHAPES)
def test_the_arrays_are_those_of_mlx_lms_model(name: str) -> None:
    shape = SHAPES[name]
    model = llama.Model(llama.ModelArgs.from_dict(config_of(shape)))  # lazy: nothing of it is computed
    if shape.quantised:
        nn.quantize(model, group_size=GROUP, bits=BITS)
    wanted: Any = tree_flatten(model.parameters())
    assert {part.name: part.dims for part in parts_of(shape)} == {key: array.shape for key, array in wanted}


def test_the_large_shapes_have_the_sizes_of_their_names() -> None:
    sizes = {name: sum(part.nbytes for part in parts_of(shape)) for name, shape in SHAPES.items()}
    assert sizes["90m"] / 2 == pytest.approx(90e6, rel=0.02)
    assert sizes["1b"] / 2 == pytest.approx(1.236e9, rel=0.01)
    # 4 bits a weight, and two numbers of 16 bits for 64 of them.
    assert sizes["8b-4bit"] * 8 / 4.5 == pytest.approx(8.03e9, rel=0.01)


@pytest.mark.parametrize("kind", [slow("bfloat16"), slow("float32"), "tied", "quantised"])
def test_a_checkpoint_loads_and_its_logits_are_a_language_models_in_size(kind: str, tmp_path: Path) -> None:
    shape = replace(SMALL, tied=kind == "tied", quantised=kind == "quantised", rope_factor=8.0)
    shape = replace(shape, dtype="float32") if kind == "float32" else shape
    loaded = load_model(model_config(write_checkpoint(tmp_path / "model", shape)))
    assert loaded.batchable and not loaded.uncached_reason
    fed = mx.array(np.random.default_rng(0).integers(0, 256, (1, 64)))
    logits = np.asarray(loaded.model(fed)[0].astype(mx.float32))
    ordinary = np.delete(logits, np.s_[BYTES:LEAST_VOCAB], axis=1)
    assert 2.0 < ordinary.std() < 4.5
    assert not np.any(logits[:, BYTES:LEAST_VOCAB])
    # Not the last token again and again, and not one for all.
    best = logits.argmax(axis=1)
    assert len(set(best.tolist())) > 32 and np.mean(best == np.asarray(fed)[0]) < 0.4


def test_no_two_rows_are_alike_and_the_seed_decides_them(tmp_path: Path) -> None:
    read = [
        mx.load(str(write_checkpoint(tmp_path / str(seed), SMALL, seed=seed) / "model.safetensors")) for seed in (0, 1)
    ]
    tables = [np.asarray(one["lm_head.weight"].astype(mx.float32)) for one in read]  # type: ignore[index, union-attr]
    ordinary = np.delete(tables[0], np.s_[BYTES:LEAST_VOCAB], axis=0)
    assert len(np.unique(ordinary, axis=0)) == len(ordinary)
    assert not np.array_equal(tables[0], tables[1])
