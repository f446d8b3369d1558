"""The numbers of a configuration beside the names and shapes of its weights."""

import ast
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

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


def told_in(node: ast.AST, assigned: dict[str, list[ast.expr]], depth: int = 4) -> set[str]:
    """The configuration's numbers in an expression, also by way of what the file assigns them to."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return {node.slice.value}
    if isinstance(node, ast.Attribute) and re.search(r"\b(args|config)\b", ast.unparse(node.value)):
        return {node.attr}
    if isinstance(node, ast.Call) and ast.unparse(node.func) not in ("int", "max", "min"):
        return set()
    behind: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Attribute | ast.Name):
        name = f".{node.attr}" if isinstance(node, ast.Attribute) else node.id
        behind, depth = assigned.get(name, []), depth - 1
    return set[str]().union(*(told_in(part, assigned, depth) for part in behind)) if depth else set()


def counted_up_to(source: str) -> set[str]:
    """The configuration's numbers that a model's file has in a `range`."""
    nodes, assigned = list(ast.walk(ast.parse(source))), dict[str, list[ast.expr]]()
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute | ast.Name):
                name = f".{target.attr}" if isinstance(target, ast.Attribute) else target.id
                assigned.setdefault(name, []).append(cast(ast.Assign, node).value)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    ranges = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "range"]
    return set[str]().union(*(told_in(argument, assigned) for call in ranges for argument in call.args))


def test_every_number_that_mlx_lm_counts_up_to_is_looked_at() -> None:
    files = Path(mlx_lm.__file__).parent.glob("models/*.py")
    counted = set[str]().union(*(counted_up_to(file.read_text()) for file in files))
    # It is the one or the length of the other.
    assert "effective_num_loops" in counted
    counted = counted - {"effective_num_loops"} | {"num_loops", "loop_loss_weights"}
    assert {"num_hidden_layers", "num_experts", "moe_num_experts"} <= counted
    assert counted <= {*LAYERS, *WIDTHS}


def test_numbers_of_parts_lists_and_what_is_taken_off_are_looked_at_too() -> None:
    for part, name in (("ffn_config", "moe_num_experts"), ("attn_config", "kv_n_heads")):
        with pytest.raises(ModelLoadFailed, match=f"{name} is 1000000, and"):
            check_numbers(FILE, {part: {name: 10**6}}, TWO)
    with pytest.raises(ModelLoadFailed, match="loop_loss_weights is 17, and"):
        check_numbers(FILE, {"loop_loss_weights": [0.5] * 17}, TWO)
    with pytest.raises(ModelLoadFailed, match="num_kv_shared_layers is -1000000, and"):
        check_numbers(FILE, {"num_kv_shared_layers": -(10**6)}, TWO)
    check_numbers(FILE, {"num_loops": 4, "loop_loss_weights": [0.5] * 3, "num_kv_shared_layers": -1}, TWO)


@pytest.mark.parametrize("name", [*LAYERS, *WIDTHS])
@pytest.mark.parametrize(
    "number", [10**6, 2**70, 1 << 1400, -(1 << 20_000), 1e300, math.inf, math.nan], ids=list("abcdefg")
)
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
