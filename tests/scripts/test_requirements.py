"""The lists in requirements/: complete, exact, hashed, and without an address."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parents[2] / "requirements"
LISTS = ("worker", "dev")  # of this machine; cuda is for others


def entries(name: str) -> dict[str, tuple[Requirement, int]]:
    """What a list names: each requirement and the number of its hashes."""
    text = (FOLDER / f"{name}.txt").read_text()
    found: dict[str, tuple[Requirement, int]] = {}
    for entry in re.sub(r"\\\n\s*", " ", text).splitlines():
        wanted, *hashes = entry.split(" --hash=sha256:")
        requirement = Requirement(wanted)
        found[canonicalize_name(requirement.name)] = (requirement, len(hashes))
    return found


@pytest.mark.parametrize("name", [*LISTS, "cuda", "harmony"])
def test_each_line_is_one_exact_version_with_hashes_and_no_address(name: str) -> None:
    assert "://" not in (FOLDER / f"{name}.txt").read_text()
    for requirement, hashes in entries(name).values():
        assert str(requirement.specifier).startswith("==") and not requirement.extras, requirement
        assert hashes > 0, requirement


def test_the_worker_runs_on_the_versions_that_the_tests_ran_on() -> None:
    worker, dev = entries("worker"), entries("dev")
    assert {name: dev[name] for name in worker} == worker


def test_a_gpu_runs_the_same_versions_with_one_mlx_of_its_own() -> None:
    dev, cuda = entries("dev"), entries("cuda")
    assert {name: cuda[name] for name in dev if name != "mlx-cpu"} == {n: d for n, d in dev.items() if n != "mlx-cpu"}
    assert "mlx-cpu" not in cuda and "mlx-cuda-13" in cuda


@pytest.mark.parametrize("name", LISTS)
def test_what_a_package_needs_is_on_the_list_too_since_nothing_resolves_it(name: str) -> None:
    listed = entries(name)
    here = [n for n, (requirement, _) in listed.items() if not requirement.marker or requirement.marker.evaluate()]
    for package in here:
        for need in map(Requirement, distribution(package).requires or ()):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                pinned = listed[canonicalize_name(need.name)][0]
                assert need.specifier.contains(str(pinned.specifier)[2:]), (package, need)
