"""What the device reports at a wait is never read as numbers."""

import ast
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from backend.engine import waits
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host.sampler import HostSampler
from tests.engine.faulty import FailingWaits
from tests.engine.sampling.building import random_logits, row

ENGINE = Path(__file__).parents[2] / "backend" / "engine"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draw_is_one_wait_and_fails_where_that_does(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FailingWaits()
    monkeypatch.setattr(waits, "evaluate", device)
    rows = [row(temperature=temperature, top_logprobs=2)]
    logits = mx.array(random_logits(1, 300))
    samples: list[Callable[[], object]] = [
        lambda: HostSampler().sample(logits, rows),
        lambda: DeviceSampler().sample_lazy(logits, rows).collect(),
    ]
    for sample in samples:
        device.arm(1)
        with pytest.raises(RuntimeError, match="planted"):
            sample()
        device.arm(0)
        sample()
        assert device.count == 1


def test_no_code_of_the_engine_lets_numpy_wait_for_the_device() -> None:
    found: list[str] = []
    for path in sorted(ENGINE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        if path != ENGINE / "waits.py" and _imports_mlx(tree):
            found += [f"{path.relative_to(ENGINE)}:{line}" for line in _readings(tree)]
    assert found == []


def test_the_rule_finds_what_it_forbids() -> None:
    assert _readings(ast.parse("np.asarray(logits)\nnp.array([1, 2])\nmemoryview(self.tokens)")) == [1, 3]


def _imports_mlx(tree: ast.AST) -> bool:
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return "mlx.core" in names


def _readings(tree: ast.AST) -> list[int]:
    """Lines that may ask an array for its buffer: a literal or a comprehension is no array of MLX."""
    plain = (ast.List, ast.ListComp, ast.Tuple)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if ast.unparse(call.func) in {"np.asarray", "np.array", "np.frombuffer", "memoryview", "bytes"}
        and not (call.args and isinstance(call.args[0], plain))
    ]
