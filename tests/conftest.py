"""Options of a whole run, and what tests of every kind ask for."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import chosen

# Of each property, where it does not say how many itself.
EXAMPLES = {True: 100, False: 40}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Read before anything is collected."""
    parser.addoption("--sampler", default="auto", choices=("auto", "host", "device"), help="the load option of all")
    parser.addoption("--every-cut", action="store_true", help="golden texts cut in three at every pair of places")
    parser.addoption("--thorough", action="store_true", help="more examples; the oracle after each test")
    parser.addoption("--odd-minutes", default=0.0, type=float, help="how long the slow test of odd requests goes on")
    parser.addoption("--odd-seed", default=1, type=int, help="the first seed of its requests")
    parser.addoption("--machine-minutes", default=0.0, type=float, help="how long histories of each machine go on")
    parser.addoption("--machine-seed", default=1, type=int, help="the first seed of theirs")


def pytest_configure(config: pytest.Config) -> None:
    """In each test process."""
    # A proxy of the environment cannot reach what listens on this machine; gRPC and the hub would ask it all the same.
    os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1", "localhost", "::1")))
    chosen.sampler = config.getoption("--sampler")
    chosen.every_cut = config.getoption("--every-cut")
    chosen.thorough = config.getoption("--thorough")
    # What is slow is the machine: no time of an example, or of making one, says anything of what is tested.
    slow = [HealthCheck.too_slow]
    few_or_many = EXAMPLES[chosen.thorough]
    settings.register_profile("tests", settings(), deadline=None, max_examples=few_or_many, suppress_health_check=slow)
    settings.load_profile("tests")
    chosen.odd_minutes = config.getoption("--odd-minutes")
    chosen.odd_seed = config.getoption("--odd-seed")
    chosen.machine_minutes = config.getoption("--machine-minutes")
    chosen.machine_seed = config.getoption("--machine-seed")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is exhaustive is slow. Where one batch is asked for, what names its batch itself ran with the others."""
    for item in items:
        if item.get_closest_marker("exhaustive") is not None:
            item.add_marker("slow")
    if chosen.sampler == "auto":
        return
    named = [item for item in items if isinstance(item, pytest.Function) and _names_its_batch(item)]
    config.hook.pytest_deselected(items=named)
    items[:] = [item for item in items if item not in set(named)]


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """For unix sockets: a path of theirs has 103 bytes on macOS at most, where `tmp_path` alone has more."""
    with tempfile.TemporaryDirectory(prefix="mlx-", dir="/tmp") as folder:
        yield Path(folder).resolve()


def _names_its_batch(item: pytest.Function) -> bool:
    return hasattr(item, "callspec") and any(
        value in ("host", "device") for value in item.callspec.params.values() if isinstance(value, str)
    )
