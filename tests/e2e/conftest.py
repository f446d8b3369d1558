"""One worker with tiny-chat for all tests that leave it alive; after some of them it must be as good as new.

Its scope is the session: that of the package ends with each file of another one, and such files run in between.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from backend.pb import backend_pb2 as pb
from tests import chosen
from tests.e2e.faulty import Faulty
from tests.e2e.oracle import Golden, as_good_as_new
from tests.e2e.worker import Worker
from tests.models import write_model

# What is wrong stays, so that a later look finds it too; each look takes a tenth of a second of the processor.
TESTS_A_LOOK = 6


@pytest.fixture(scope="session")
def standing_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Golden]]:
    """The shared worker, and what it was like at first."""
    temporary = tmp_path_factory.mktemp("temporary")
    with Worker(environment={"TMPDIR": str(temporary)}) as worker:
        worker.must_load()
        yield worker, Golden.of(worker, temporary)


@pytest.fixture(scope="module")
def unchecked(standing_worker: tuple[Worker, Golden]) -> Iterator[list[str]]:
    """Tests of a module after which the oracle has not looked; it does at the module's end."""
    tests: list[str] = []
    yield tests
    if tests:
        _look(standing_worker, tests)


@pytest.fixture
def worker(
    request: pytest.FixtureRequest, standing_worker: tuple[Worker, Golden], unchecked: list[str]
) -> Iterator[Worker]:
    """The shared worker with tiny-chat loaded; afterwards it is alive and at rest, and checked if its turn has come."""
    standing, golden = standing_worker
    standing.must_load()
    # As the oracle leaves it, where it has looked.
    standing.prompt_cache.Clear(pb.ClearPromptCacheRequest(everything=True), timeout=60)
    yield standing
    unchecked.append(request.node.name)
    if chosen.thorough or len(unchecked) >= TESTS_A_LOOK:
        _look(standing_worker, unchecked)
    else:
        golden.glance(standing)


def _look(standing_worker: tuple[Worker, Golden], tests: list[str]) -> None:
    standing, golden = standing_worker
    try:
        golden.check(standing)
    except AssertionError as error:
        error.add_note(f"after one of these, which --thorough tells: {', '.join(tests)}")
        raise
    finally:
        tests.clear()


@pytest.fixture(scope="session")
def standing_faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faulty, Golden]]:
    """A worker that fails on demand, and what it was like at first."""
    folder = tmp_path_factory.mktemp("orders")
    faulty = Faulty(folder)
    with faulty.worker as worker:
        worker.must_load()
        yield faulty, Golden.of(worker)


@pytest.fixture
def faulty(standing_faulty: tuple[Faulty, Golden]) -> Iterator[Faulty]:
    """A worker that outlives its faults, checked afterwards."""
    yield standing_faulty[0]
    standing_faulty[1].check(standing_faulty[0].worker)


@pytest.fixture(scope="session")
def another_standing() -> Iterator[tuple[Worker, Golden | None]]:
    """A worker, and with `--thorough` what it was like at first."""
    with Worker() as worker, as_good_as_new(worker) if chosen.thorough else nullcontext() as golden:
        yield worker, golden


@pytest.fixture(scope="module")
def another_worker(another_standing: tuple[Worker, Golden | None]) -> Iterator[Worker]:
    """One for modules whose tests load what they need, and leave it there."""
    worker, golden = another_standing
    yield worker
    if golden is not None:
        golden.check(worker)


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
