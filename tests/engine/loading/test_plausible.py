"""The numbers of a configuration beside the names and shapes of its weights."""

import re
from pathlib import Path

import mlx_lm
import pytest

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.plausible import LAYERS, WIDTHS, Shapes, check_numbers

FILE = Path("/m/config.json")


def shapes(*names: str) -> Shapes:
    found = Shapes()
    for name in names:
        found.add(name, (64, 8))
    return found


TWO = shapes("model.layers.0.mlp.experts.7.w", "model.layers.0.norm.weight", "model.layers.1.w", "lm_head.weight")


def test_every_number_that_mlx_lm_counts_up_to_is_looked_at() -> None:
    counted: set[str] = set()
    for file in Path(mlx_lm.__file__).parent.glob("models/*.py"):
        counted |= set(re.findall(r"range\((?:self\.)?(?:args|config)\.(?:text_config\.)?(\w+)\)", file.read_text()))
    assert "num_hidden_layers" in counted
    assert counted <= {*LAYERS, *WIDTHS}


@pytest.mark.parametrize("name", [*LAYERS, *WIDTHS])
@pytest.mark.parametrize("number", [10**6, 2**70, 1e300, float("inf")])
def test_a_number_of_many_times_what_there_is_is_refused(name: str, number: float) -> None:
    for config in ({name: number}, {"text_config": {name: number}}):
        with pytest.raises(ModelLoadFailed, match=f"^/m/config.json: {name} is "):
            check_numbers(FILE, config, TWO)


def test_layers_are_the_numbered_parts_of_names_and_not_what_is_numbered_inside_them() -> None:
    check_numbers(FILE, {"num_hidden_layers": 16, "hidden_size": 512}, TWO)
    with pytest.raises(ModelLoadFailed, match="num_hidden_layers is 17, and the weights have 2 layers at most"):
        check_numbers(FILE, {"num_hidden_layers": 17}, TWO)
    with pytest.raises(ModelLoadFailed, match="hidden_size is 513, and the weights have 64"):
        check_numbers(FILE, {"hidden_size": 513}, TWO)


def test_layers_in_two_lists_and_names_without_numbers_count_too() -> None:
    check_numbers(FILE, {"num_layers": 24}, shapes("layers.0.w", "layers.1.w", "reuse_layers.0.w"))
    check_numbers(FILE, {"num_layers": 8}, shapes("embed.weight"))


def test_what_is_no_number_is_left_to_mlx_lm() -> None:
    check_numbers(FILE, {"num_hidden_layers": "x", "hidden_size": None, "text_config": 3, "vocab_size": True}, TWO)
