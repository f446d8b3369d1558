"""A disk that is full, fails, does half of its work, or hangs: requests go on, nothing half-written stays."""

from __future__ import annotations

import errno
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import Clock, FaultySystem, failing, files, over, put, template, temporaries, tier
from tests.mlx_cache.oracle import check_content

TEXT = list(range(1, 23))
ASKED = [*TEXT, 99]
WRITING = ["create", "try_lock", "allocate", "write", "sync", "rename", "make_folder", "open_folder", "stat"]


def check_exact(path: Path) -> int:
    """Whatever is found is right, nothing is bad, nothing half-written is there; the tokens found."""
    disk = tier(path)
    fetched = disk.read("m", ASKED, template())
    if fetched.caches is not None:
        check_content(fetched.caches, "m", TEXT[: fetched.length])
    assert list(disk.verify()) == [] and disk.stats()["quarantined"] == 0
    assert temporaries(path) == []
    disk.close(10)
    return fetched.length


def test_a_clock_that_is_put_back_keeps_nothing_from_being_written_or_found(tmp_path: Path) -> None:
    """Files carry the time of day, so that is the clock; it may be put back by hours."""
    system, clock = FaultySystem(), Clock()
    clock.now = 1e6
    disk = tier(tmp_path / "kv", system=system, clock=clock, rescan_seconds=1.0)
    system.before = failing("create", errno.ENOSPC)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60) and disk.stats()["state"].startswith("off: ")
    system.before = failing("none")
    clock.now -= 7200
    put(cache, [7, *TEXT])
    assert cache.flush(60) and disk.stats()["state"] == "on"
    # What another worker writes is learned of.
    other = tier(tmp_path / "kv")
    beside = over(other)
    put(beside, [8, *TEXT])
    assert beside.flush(60)
    other.close(10)
    deadline = time.monotonic() + 60
    while not disk.read("m", [8, *ASKED], template()).length:
        assert time.monotonic() < deadline
        clock.now += 2
        time.sleep(0.05)
    disk.close(10)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["create", "allocate", "write", "sync", "rename"])
def test_a_disk_that_refuses_costs_no_request_and_leaves_nothing(
    call: str, error: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system, clock = FaultySystem(), Clock()
    disk = tier(tmp_path / "kv", system=system, clock=clock)
    system.before = failing(call, error)
    cache = over(disk)
    with caplog.at_level(logging.DEBUG):
        put(cache, TEXT)
        assert cache.flush(60)
        put(cache, [7, *TEXT])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
    assert temporaries(tmp_path / "kv") == []
    # What was renamed before the folder could be synced is whole, and there.
    assert len(files(tmp_path / "kv")) <= (1 if call == "sync" else 0)
    stats = disk.stats()
    assert stats["state"].startswith("off: ") and stats["dropped"] >= 6
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    # It is tried again after a while, not before.
    system.before = failing("none")
    put(cache, TEXT)
    assert cache.flush(60) and disk.stats()["files"] == 0
    clock.now += 31
    assert cache.flush(60)
    assert disk.stats()["state"] == "on" and disk.match("m", ASKED) == 22
    disk.close(10)
    assert check_exact(tmp_path / "kv") == 22


def test_a_disk_that_goes_on_refusing_is_tried_ever_less_often(tmp_path: Path) -> None:
    system, clock = FaultySystem(), Clock()
    disk = tier(tmp_path / "kv", system=system, clock=clock)
    system.before = failing("allocate")
    cache = over(disk)
    put(cache, TEXT)
    tried: list[float] = []
    for _ in range(1200):
        before = system.counts.get("allocate", 0)
        assert cache.flush(60)
        if system.counts.get("allocate", 0) > before:
            tried.append(clock.now)
        clock.now += 10
    gaps = [round(b - a) for a, b in pairwise(tried)]
    assert gaps == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    disk.close(10)


@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
def test_a_fault_at_any_call_leaves_what_is_exact_or_absent(call: str, at: int, tmp_path: Path) -> None:
    system = FaultySystem()
    disk = tier(tmp_path / "kv", system=system)
    seen = system.counts.get(call, 0)
    system.before = failing(call, errno.EIO, at=seen + at, times=1)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    assert cache.fetch("m", ASKED).length == 22
    disk.close(10)
    check_exact(tmp_path / "kv")


def test_a_disk_that_does_a_little_at_a_time_is_read_and_written_whole(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", system=FaultySystem(short=True))
    cache = over(disk)
    put(cache, TEXT, "window-hybrid")
    put(cache, TEXT, "hybrid", "h")
    assert cache.flush(60)
    for layout, space in (("window-hybrid", "m"), ("hybrid", "h")):
        check_content(disk.read(space, ASKED, template(layout)).caches or [], space, TEXT)
    disk.close(10)


@pytest.mark.parametrize("call", ["open_folder", "open_file", "stat", "read"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_fault_while_reading_is_a_miss(call: str, at: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system = FaultySystem()
    disk = tier(tmp_path / "kv", system=system)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    caplog.clear()
    system.before = failing(call, errno.EIO, at=system.counts[call] + at, times=1)
    fetched = disk.read("m", ASKED, template())
    assert fetched.length < 22
    if fetched.caches is not None:
        check_content(fetched.caches, "m", TEXT[: fetched.length])
    assert disk.stats()["quarantined"] == 1 and len(caplog.records) == 1
    disk.close(10)


def test_running_out_of_descriptors_harms_no_file(tmp_path: Path) -> None:
    system = FaultySystem()
    disk = tier(tmp_path / "kv", system=system)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    system.before = failing("open_file", errno.EMFILE)
    assert disk.read("m", ASKED, template()).caches is None
    system.before = failing("none")
    assert disk.read("m", ASKED, template()).length == 22
    assert disk.stats()["quarantined"] == 0
    disk.close(10)


# Hanging


def test_a_disk_that_hangs_holds_neither_lookups_nor_stores_nor_the_end(tmp_path: Path) -> None:
    system, go, hangs = FaultySystem(), threading.Event(), threading.Event()
    disk = tier(tmp_path / "kv", system=system, queue_bytes=100)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)

    def hang(call: str, number: int) -> None:
        if call in ("create", "open_file"):
            hangs.set()
            go.wait(60)

    system.before = hang
    reader = threading.Thread(target=lambda: disk.read("m", ASKED, template()), daemon=True)
    reader.start()
    assert hangs.wait(60)
    hangs.clear()
    put(cache, [50, *TEXT])
    cache.trim_to(n_bytes=0)
    assert hangs.wait(60)
    # Everything below happens while a reader and the writer hang in the system.
    for first in range(60, 90):
        put(cache, [first, *TEXT])
        assert cache.fetch("m", [first, *ASKED]).length == 23
        assert disk.match("m", ASKED) == 22
        cache.trim_to(n_bytes=0)
    assert disk.stats()["dropped"] > 0 and disk.stats()["waiting_bytes"] <= 100
    disk.protect("m", TEXT)
    assert not disk.flush(0.05)
    assert not cache.flush(0.05)
    started = time.monotonic()
    disk.close(0.2)
    assert time.monotonic() - started < 10
    assert disk.match("m", ASKED) == 0
    go.set()
    reader.join(60)
    assert not reader.is_alive()


# A real disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", place], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("NO FULL DISK IS TRIED: this user cannot mount a file system of its own")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_leaves_no_part_of_a_file_and_requests_go_on(small_disk: Path) -> None:
    disk = tier(small_disk / "kv")
    cache = over(disk)
    for first in range(100, 200):
        put(cache, [first, *TEXT])
        assert cache.fetch("m", [first, *ASKED]).length == 23
    assert cache.flush(20)
    stats = disk.stats()
    assert stats["state"] == "off: No space left on device" and 0 < stats["bytes"] <= 256 << 10
    assert temporaries(small_disk / "kv") == [] and list(disk.verify()) == []
    disk.clear()
    disk.close(10)
    disk = tier(small_disk / "kv")

    again = over(disk)
    put(again, TEXT)
    assert again.flush(60) and disk.match("m", ASKED) == 22
    disk.close(10)


def test_without_reserving_a_full_disk_is_noticed_while_writing(small_disk: Path) -> None:
    class Unreserved(System):
        def allocate(self, fd: int, size: int) -> None:
            pass

    disk = tier(small_disk / "kv", system=Unreserved())
    cache = over(disk)
    for first in range(100, 200):
        put(cache, [first, *TEXT])
    assert cache.flush(20)
    assert disk.stats()["state"] == "off: No space left on device"
    assert temporaries(small_disk / "kv") == [] and list(disk.verify()) == []
    disk.close(10)
