"""Each check of the oracle fails where what it looks for is wrong, and no other does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.asking import prompt, running
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

pytestmark = pytest.mark.slow

PATIENCE = 0.3
# What is wrong, and the words of the check that finds it.
WRONG = {
    "slow": "Health",
    "greedy": "greedy",
    "sampled": "sampled",
    "bytes": "bytes of MLX",
    "threads": "threads",
    "descriptors": "descriptors",
    "child": "children",
    "temporary": "half written",
    "traceback": "traceback",
    "native": "left in for debugging",
}


class Crooked:
    """A worker that goes wrong on demand."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "orders"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.worker = Worker(
            "--speculation",
            "off",
            command=("-m", "tests.e2e.crooked_worker", str(self._orders)),
            environment={"TMPDIR": str(self.temporary)},
        )

    def order(self, wrong: str) -> None:
        """Have this go wrong; an empty word sets all right."""
        draft = self._orders.with_suffix(".draft")
        draft.write_text(wrong)
        draft.rename(self._orders)
        wait_until(lambda: not self._orders.exists(), "order read")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Crooked, Golden]]:
    crooked = Crooked(tmp_path_factory.mktemp("crooked"))
    with crooked.worker as worker:
        worker.must_load()
        yield crooked, Golden.of(worker, crooked.temporary)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_by_the_check_that_is_for_it(standing: tuple[Crooked, Golden], wrong: str) -> None:
    crooked, golden = standing
    lines = len(crooked.worker.log.lines)
    crooked.order(wrong)
    with pytest.raises(AssertionError, match=WRONG[wrong]):
        golden.check(crooked.worker, PATIENCE)
    crooked.order("")
    del crooked.worker.log.lines[lines:]
    golden.check(crooked.worker)


def test_a_row_that_stays_is_found(standing: tuple[Crooked, Golden]) -> None:
    crooked, golden = standing
    endless = prompt("x", 4000, IgnoreEOS=True)
    with running(crooked.worker.stub, endless), pytest.raises(AssertionError, match="queue figures"):
        golden.check(crooked.worker, PATIENCE)
    golden.check(crooked.worker)


def test_a_neighbour_that_is_not_exact_or_does_not_end_well_is_found(standing: tuple[Crooked, Golden]) -> None:
    crooked, golden = standing
    with golden.beside(crooked.worker):
        pass
    with pytest.raises(AssertionError, match="neighbour"), golden.beside(crooked.worker):
        crooked.order("sampled")
    crooked.order("")
    with pytest.raises(AssertionError, match="another model|unloaded|abort"), golden.beside(crooked.worker):
        crooked.worker.must_load(TINY_CHAT, "max_rows:3")
    golden.check(crooked.worker)


def test_a_worker_that_is_dead_is_found(standing: tuple[Crooked, Golden]) -> None:
    dead = Worker(command=("-c", "raise SystemExit('gone')"))
    dead.spawn()
    dead.wait(60)
    assert dead.log.whole()
    dead.process.stderr.close()  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="gone"):
        standing[1].check(dead)
