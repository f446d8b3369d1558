"""The machine's memory, and control groups as the system shows them, in a directory that stands for `/`."""

import os
from pathlib import Path

from backend.engine.loading.machine_memory import machine_memory

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_without_control_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert machine_memory(tmp_path, physical=64 * GIB) == 64 * GIB
    assert machine_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_least_limit_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/worker",
            "sys/fs/cgroup/pod/worker/memory.max": "max",
            "sys/fs/cgroup/pod/memory.max": str(8 * GIB),
            "sys/fs/cgroup/memory.max": str(32 * GIB),
        },
    )
    assert machine_memory(root, physical=64 * GIB) == 8 * GIB
    assert machine_memory(root, physical=4 * GIB) == 4 * GIB


def test_a_container_that_sees_its_own_group_as_the_mount_is_bound_by_it(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/docker/0a1b2c", "sys/fs/cgroup/memory.max": str(2 * GIB)}
    assert machine_memory(write(tmp_path, files), physical=64 * GIB) == 2 * GIB


def test_a_group_beside_the_containers_root_does_not_lead_out_of_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../other", "sys/fs/cgroup/memory.max": str(2 * GIB), "sys/memory.max": "1"}
    assert machine_memory(write(tmp_path, files), physical=64 * GIB) == 2 * GIB


def test_limits_of_version_1_count_where_the_memory_controller_is(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/jobs/a\n3:cpu,cpuacct:/jobs\n0::/",
            "sys/fs/cgroup/memory/jobs/a/memory.limit_in_bytes": str(9223372036854771712),
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": str(3 * GIB),
        },
    )
    assert machine_memory(root, physical=64 * GIB) == 3 * GIB


def test_files_that_say_something_else_are_no_limit(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "nonsense\n0::/a\n", "sys/fs/cgroup/a/memory.max": "-1"}
    assert machine_memory(write(tmp_path, files), physical=64 * GIB) == 64 * GIB
