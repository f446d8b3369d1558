"""Options of a whole run."""

import pytest

from tests import chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    """Read before anything is collected."""
    parser.addoption("--sampler", default="auto", choices=("auto", "host", "device"), help="the load option of all")


def pytest_configure(config: pytest.Config) -> None:
    """In each test process."""
    chosen.sampler = config.getoption("--sampler")
