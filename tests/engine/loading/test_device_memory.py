"""Budgets from what each kind of device says of itself, and a wired limit that comes and goes with the model."""

import pytest

from backend.engine.loading.device_memory import bound_pool, device_memory, wire, wired_limit
from backend.engine.loading.machine_memory import machine_memory

GIB = 1 << 30
METAL = {"max_recommended_working_set_size": 24 * GIB, "memory_size": 32 * GIB, "device_name": "Apple M2"}
CUDA = {"total_memory": 16 * GIB, "free_memory": 10 * GIB, "device_name": "NVIDIA L4"}


def test_a_cpu_has_the_memory_of_its_machine_or_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_memory({}, is_cpu=True, active=0).total == machine_memory()
    monkeypatch.setattr("backend.engine.loading.device_memory.machine_memory", lambda: 5 * GIB)
    assert device_memory(CUDA, is_cpu=True, active=0).total == 5 * GIB


def test_metal_has_its_recommended_working_set() -> None:
    memory = device_memory(METAL, is_cpu=False, active=GIB)
    assert (memory.total, memory.wirable) == (24 * GIB, 24 * GIB)


@pytest.mark.parametrize(("active", "total"), [(0, 10), (4, 14), (8, 16)])
def test_cuda_has_what_others_leave_and_what_is_ours_already(active: int, total: int) -> None:
    memory = device_memory(CUDA, is_cpu=False, active=active * GIB)
    assert (memory.total, memory.wirable) == (total * GIB, 0)


def test_a_gpu_that_says_nothing_is_not_given_the_hosts_memory() -> None:
    assert device_memory({"device_name": "gpu"}, is_cpu=False, active=0).total == 0


def test_workers_that_share_a_device_have_their_shares() -> None:
    memory = device_memory(METAL, is_cpu=False, active=0, share=0.5)
    assert (memory.total, memory.wirable) == (12 * GIB, 12 * GIB)
    assert "0.5" in memory.source


def test_what_is_wired_is_asked_for_or_wanted_and_never_more_than_the_device_allows() -> None:
    memory = device_memory(METAL, is_cpu=False, active=0)
    assert wired_limit(None, memory=memory, wanted=5 * GIB) == 5 * GIB
    assert wired_limit(None, memory=memory, wanted=50 * GIB) == 24 * GIB
    assert wired_limit(2 * GIB, memory=memory, wanted=5 * GIB) == 2 * GIB
    assert wired_limit(0, memory=memory, wanted=5 * GIB) == 0
    assert wired_limit(None, memory=device_memory(CUDA, is_cpu=False, active=0), wanted=GIB) == 0


def test_the_limit_of_before_is_restored() -> None:
    limits = [7]

    def set_limit(limit: int) -> int:
        limits.append(limit)
        return limits[-2]

    restore = wire(100, set_limit)
    assert limits == [7, 100]
    restore()
    assert limits == [7, 100, 7]
    wire(0, set_limit)()
    assert limits == [7, 100, 7]


def test_a_system_that_wires_nothing_costs_no_load() -> None:
    def refuse(_: int) -> int:
        raise ValueError("not on this system")

    wire(100, refuse)()


def test_the_pool_is_bounded_never_widened_and_restored() -> None:
    for default, asked, bound in ((1000, 50, 50), (32, 50, 32), (1000, 0, 1000)):
        limit = default

        def set_limit(new: int) -> int:
            nonlocal limit
            limit, before = new, limit
            return before

        restore = bound_pool(asked, set_limit)
        assert limit == bound
        restore()
        assert limit == default
