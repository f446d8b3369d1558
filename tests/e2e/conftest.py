"""One worker with tiny-chat for all tests that leave it alive; after each of them it must be as good as new."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.oracle import Golden
from tests.e2e.worker import Worker
from tests.models import write_model

# As parameters: which decode batch serves, that of a CPU or that of a GPU.
SAMPLERS = ("host", pytest.param("device", marks=pytest.mark.slow))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says `BOTH_BATCHES = True` has its tests run over both decode batches."""
    if "standing_worker" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_BATCHES", False):
        metafunc.parametrize("standing_worker", SAMPLERS, indirect=True, scope="package")


@pytest.fixture(scope="package")
def standing_worker(request: pytest.FixtureRequest) -> Iterator[tuple[Worker, Golden]]:
    """The shared worker, and what it was like at first."""
    with Worker("--sampler", getattr(request, "param", "auto")) as worker:
        worker.must_load()
        yield worker, Golden.of(worker)


@pytest.fixture
def worker(standing_worker: tuple[Worker, Golden]) -> Iterator[Worker]:
    """The shared worker with tiny-chat loaded; checked afterwards."""
    standing, golden = standing_worker
    standing.must_load()
    yield standing
    golden.check(standing)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Model directories with random weights by family; equal requests give the same directory."""
    made: dict[tuple[object, ...], Path] = {}

    def make(family: str = "qwen3", **options: object) -> Path:
        key = (family, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = write_model(folder / family, family, **options)  # type: ignore[arg-type]
        return made[key]

    return make
