"""Which weights a decode step reads."""

from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from backend.engine.loading import load_model
from backend.engine.loading.step_bytes import step_bytes
from tests.engine.harness import model_config
from tests.models import write_model


def test_a_dense_model_reads_all_its_weights(tmp_path: Path) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "qwen3", "qwen3")))
    assert loaded.step_bytes == loaded.weight_bytes


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_of_experts_only_those_are_read_that_a_token_is_sent_to(tmp_path: Path, family: str) -> None:
    loaded = load_model(model_config(write_model(tmp_path / family, family)))
    experts = sum(array.nbytes for path, array in tree_flatten(loaded.model.parameters()) if "switch_mlp" in path)
    assert experts > 0
    # Two of four.
    assert loaded.step_bytes == loaded.weight_bytes - experts // 2
    assert step_bytes(loaded.model, {}) == loaded.weight_bytes
    assert step_bytes(loaded.model, {"text_config": {"num_experts_per_tok": 4}}) == loaded.weight_bytes
