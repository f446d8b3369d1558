"""A model that brings the code of its own module, trusted to run it, over a disk that outlives the code."""

import json
import shutil
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests import chosen
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

TEXT = "the quick brown fox jumps over the lazy dog and goes on " * 6
CODE = """
from mlx_lm.models import qwen3
from mlx_lm.models.qwen3 import ModelArgs

class Model(qwen3.Model):
    def __call__(self, inputs, cache=None, **options):
        return super().__call__((inputs + SHIFT) % 90, cache, **options)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The directory of a model whose code is `own.py`."""
    folder = write_model(tmp_path / "own", "qwen3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_file": "own.py"}))
    return folder


def answered(own: Path, directory: Path, shift: int) -> Answer:
    """What a process answers whose model has this code, all of it written to the directory at its end."""
    # Of another length each time: Python keeps what it compiled by the second and the length.
    (own / "own.py").write_text(CODE.replace("SHIFT", str(shift)))

    async def body(handle: EngineHandle) -> Answer:
        answer = await read(handle, request(TEXT, n=6, sampling=Sampling(ignore_eos=True)))
        await settled(handle)
        return answer

    engine, cache = EngineConfig(sampler=chosen.sampler), CacheConfig(directory=str(directory))
    return with_engine(model_config(own, engine=engine, cache=cache, trust_remote_code=True), body)


def hit(answer: Answer) -> int:
    assert answer.error is None and answer.end is not None
    return answer.end.usage.cached_tokens


def test_what_other_code_has_computed_is_of_no_use(own: Path, tmp_path: Path) -> None:
    first = answered(own, tmp_path / "kv", 1)
    assert hit(answered(own, tmp_path / "kv", 1)) > 0
    changed = answered(own, tmp_path / "kv", 22)
    assert hit(changed) == 0
    shutil.rmtree(tmp_path / "kv")
    cold = answered(own, tmp_path / "kv", 22)
    assert changed.logprobs == cold.logprobs != first.logprobs
