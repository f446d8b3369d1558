from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest

from tests.models import write_model

WriteModel = Callable[..., Path]


@pytest.fixture(scope="session")
def written_model(tmp_path_factory: pytest.TempPathFactory) -> WriteModel:
    """A model directory of a family, written once a session; not to be changed."""

    @cache
    def write(family: str = "qwen3", dtype: str = "float32") -> Path:
        return write_model(tmp_path_factory.mktemp("models") / f"{family}-{dtype}", family, dtype=dtype)

    return write


@pytest.fixture
def own_model(tmp_path: Path, written_model: WriteModel) -> Path:
    """A copy of a small Qwen 3 that a test may break."""
    return copytree(written_model(), tmp_path / "model")
