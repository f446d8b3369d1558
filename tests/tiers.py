"""Which cases of a test run in `make test`, which in `make check` alone (slow), and which in neither (exhaustive)."""

from collections.abc import Collection
from itertools import product
from typing import Any

import pytest

from tests.models import FAMILIES, QUICK_FAMILIES


def families_by_batch(quick: Collection[tuple[str, str]]) -> list[Any]:
    """Parameters `(family, sampler)`: the quick ones, slow ones, and of the device's batch most as exhaustive ones."""
    others = [pair for pair in product(FAMILIES, ("host", "device")) if pair not in quick]
    sampled = {(family, "device") for family in QUICK_FAMILIES} | {(family, "host") for family in FAMILIES}
    tiers = {True: pytest.mark.slow, False: pytest.mark.exhaustive}
    return [*quick, *(pytest.param(*pair, marks=tiers[pair in sampled]) for pair in others)]


def slow(*values: object, name: str | None = None) -> Any:
    """A case that runs in `make check` alone."""
    return pytest.param(*values, id=name, marks=pytest.mark.slow)
