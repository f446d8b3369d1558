"""What the device reports at a wait is never read as numbers."""

import ast
import asyncio
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import InternalFault
from backend.engine import waits
from backend.engine.handle import EngineHandle
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host.sampler import HostSampler
from tests.engine.faulty import FailingWaits
from tests.engine.harness import NO_CACHE, Answer, model_config, read, request, with_engine
from tests.engine.sampling.building import random_logits, row
from tests.models import write_model

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


# Without a cache prefills wait too; with one, what a failed step left behind must not be found by the next request.
@pytest.mark.parametrize("cache", [CacheConfig(), NO_CACHE], ids=["cache", "no-cache"])
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_whichever_wait_fails_its_requests_end_and_no_answer_is_wrong(
    sampler: str, cache: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FailingWaits()
    monkeypatch.setattr(waits, "evaluate", device)
    config = model_config(
        write_model(tmp_path / "qwen3", "qwen3"),
        engine=EngineConfig(prefill_chunk=32, sampler=sampler),  # type: ignore[arg-type]
        cache=cache,
    )
    prompts = ["a prompt of more than one chunk of thirty-two", "another, short"]

    async def both(handle: EngineHandle) -> list[Answer]:
        return list(await asyncio.gather(*(read(handle, request(prompt, n=6)) for prompt in prompts)))

    async def body(handle: EngineHandle) -> None:
        expected = await both(handle)
        failures = 0
        for n in range(1, 60):
            device.arm(n)
            for answer, right in zip(await both(handle), expected, strict=True):
                if answer.error is None:
                    assert answer.logprobs == right.logprobs
                else:
                    assert isinstance(answer.error, InternalFault)
                    failures += 1
            if device.count < n:
                break
        else:
            raise AssertionError("no run came to its end without a failure")
        assert failures >= 7
        device.arm(0)
        assert [answer.logprobs for answer in await both(handle)] == [answer.logprobs for answer in expected]

    with_engine(config, body)


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
