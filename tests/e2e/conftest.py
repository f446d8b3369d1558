"""One worker with tiny-chat for all tests that leave it alive; after each of them it must be as good as new."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.oracle import Golden
from tests.e2e.worker import Worker
from tests.models import write_model


@pytest.fixture(scope="package")
def standing_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Golden]]:
    """The shared worker, and what it was like at first."""
    temporary = tmp_path_factory.mktemp("temporary")
    with Worker(environment={"TMPDIR": str(temporary)}) as worker:
        worker.must_load()
        yield worker, Golden.of(worker, temporary)


@pytest.fixture
def worker(standing_worker: tuple[Worker, Golden]) -> Iterator[Worker]:
    """The shared worker with tiny-chat loaded; checked afterwards."""
    standing, golden = standing_worker
    standing.must_load()
    yield standing
    golden.check(standing)


@pytest.fixture(scope="package")
def another_worker() -> Iterator[Worker]:
    """One for modules whose tests load what they need, and leave it there."""
    with Worker() as worker:
        yield worker


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
