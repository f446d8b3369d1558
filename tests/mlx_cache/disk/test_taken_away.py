"""A directory that is emptied, removed or replaced under an open tier: what was in it is lost, and nothing else."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mlx_cache.disk import DiskTier, Place
from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import Clock, files, over, put, template, tier
from tests.mlx_cache.oracle import check_content

FIRST, SECOND = list(range(1, 23)), list(range(101, 123))


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.01)


def removed(kv: Path) -> None:
    """Gone, whatever its worker makes in it meanwhile."""
    for _ in range(1000):
        with suppress(OSError):
            shutil.rmtree(kv)
            return


def emptied(kv: Path) -> None:
    for path in kv.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def moved_away(kv: Path) -> None:
    kv.rename(kv.with_name("moved"))


def replaced(kv: Path) -> None:
    moved_away(kv)
    with suppress(FileExistsError):
        kv.mkdir(mode=0o700)


def without_files(kv: Path) -> None:
    removed(kv / "v1")


AWAY: list[Callable[[Path], None]] = [emptied, removed, moved_away, replaced, without_files]


def quick(path: Path, **options: object) -> DiskTier:
    return tier(path, rescan_seconds=0.02, **options)


def kept(disk: DiskTier, tokens: list[int]) -> int:
    """How many of the tokens a read gives; what it gives is exact."""
    fetched = disk.read("m", [*tokens, 99], template())
    if fetched.caches is not None:
        check_content(fetched.caches, "m", tokens[: fetched.length])
    return fetched.length


def told(disk: DiskTier) -> tuple[str, int, int]:
    stats = disk.stats()
    return stats["state"], stats["files"], stats["bytes"]


def lies(kv: Path) -> tuple[str, int, int]:
    return "on", len(files(kv)), sum(path.stat().st_size for path in files(kv))


@pytest.mark.parametrize("away", AWAY)
def test_what_was_in_it_is_lost_and_nothing_else(away: Callable[[Path], None], tmp_path: Path) -> None:
    kv = tmp_path / "a" / "kv"
    disk = quick(kv)
    cache = over(disk)
    put(cache, FIRST)
    assert cache.flush(60)
    secret, before = (kv / "secret").read_bytes(), os.umask(0)
    try:
        away(kv)
        there = list((tmp_path / "a").rglob("moved/**/*"))
        put(cache, SECOND)
        assert cache.flush(60)
        assert kept(disk, SECOND) == len(SECOND)
        wait_until(lambda: told(disk) == lies(kv), "the figures tell what is there")
        assert len(files(kv)) >= 6
        assert (kv / "secret").read_bytes() == secret
        for path in [kv, *kv.rglob("*")]:
            assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert list((tmp_path / "a").rglob("moved/**/*")) == there
    finally:
        os.umask(before)
    disk.close(10)
    again = tier(kv)
    assert kept(again, SECOND) == len(SECOND)
    again.close(10)


@pytest.mark.parametrize("away", AWAY)
def test_the_figures_tell_what_is_there_with_nothing_written(away: Callable[[Path], None], tmp_path: Path) -> None:
    kv = tmp_path / "kv"
    disk = quick(kv)
    cache = over(disk)
    put(cache, FIRST)
    assert cache.flush(60)
    shown = list[tuple[str, int, int]]()
    disk.changed = lambda: shown.append(told(disk))
    away(kv)
    wait_until(lambda: ("on", 0, 0) in shown, "it is empty and on, and says so")
    whole = ["quarantine", "secret", "v1"]
    wait_until(lambda: kv.is_dir() and sorted(path.name for path in kv.iterdir()) == whole, "it is whole again")
    assert told(disk) == ("on", 0, 0)
    assert kept(disk, FIRST) == 0
    disk.close(10)


@pytest.mark.parametrize("away", AWAY)
def test_several_workers_on_one_agree_on_what_is_made_anew(away: Callable[[Path], None], tmp_path: Path) -> None:
    kv = tmp_path / "kv"
    disks = [quick(kv) for _ in range(3)]
    caches = [over(disk) for disk in disks]
    put(caches[0], FIRST)
    assert caches[0].flush(60)
    away(kv)
    put(caches[1], SECOND)
    assert caches[1].flush(60)
    for disk in disks:
        wait_until(lambda disk=disk: kept(disk, SECOND) == len(SECOND), "what one writes the others find")
        wait_until(lambda disk=disk: told(disk) == lies(kv), "and they tell of it")
        disk.close(10)


def test_a_worker_that_came_first_has_given_it_another_secret(tmp_path: Path) -> None:
    kv = tmp_path / "kv"
    disk = quick(kv)
    cache = over(disk)
    label, before = disk.label("a conversation"), disk.folder_of("m")
    disk.protect("m", SECOND)
    put(cache, FIRST)
    assert cache.flush(60)
    quick(tmp_path / "other").close(10)
    for _ in range(1000):
        removed(kv)
        with suppress(OSError):
            (tmp_path / "other").rename(kv)
            break
    secret = (kv / "secret").read_bytes()
    wait_until(lambda: disk.folder_of("m") not in ("", before), "the other directory is opened")
    put(cache, SECOND)
    assert cache.flush(60)
    assert (kv / "secret").read_bytes() == secret
    assert kept(disk, SECOND) == len(SECOND)
    assert disk.label("a conversation") == label
    disk.close(10)
    again = tier(kv)
    assert kept(again, SECOND) == len(SECOND)
    again.close(10)


@pytest.mark.parametrize("what", ["a file", "a link", "a link to nothing", "open to others", "a secret that is a link"])
def test_what_cannot_be_used_in_its_place_is_not_and_comes_back_by_itself(what: str, tmp_path: Path) -> None:
    kv, elsewhere = tmp_path / "kv", tmp_path / "elsewhere"
    disk = quick(kv)
    cache = over(disk)
    made = tmp_path / "made"
    if what == "a file":
        made.write_text("x")
    elif what == "open to others":
        made.mkdir()
        made.chmod(0o777)
    elif what == "a secret that is a link":
        elsewhere.write_bytes(b"x" * 32)
        elsewhere.chmod(0o600)
        made.mkdir(mode=0o700)
        (made / "secret").symlink_to(elsewhere)
    else:
        if what == "a link":
            elsewhere.mkdir(mode=0o700)
        made.symlink_to(elsewhere)
    for _ in range(1000):
        removed(kv)
        with suppress(OSError):
            made.rename(kv)
            break
    before = elsewhere.read_bytes() if elsewhere.is_file() else None
    words = {"a file": "Not a directory", "open to others": "can be written by others"}.get(what, "")
    words = words or ("is a link" if what.startswith("a link") else "secret")
    wait_until(lambda: told(disk)[0].startswith(f"off: {kv}") and words in told(disk)[0], "the reason is told")
    put(cache, FIRST)
    cache.flush(60)
    if elsewhere.is_dir():
        assert list(elsewhere.iterdir()) == []
    assert (elsewhere.read_bytes() if elsewhere.is_file() else None) == before
    kv.unlink() if not kv.is_dir() or kv.is_symlink() else removed(kv)
    wait_until(lambda: told(disk)[0] == "on", "it is used again")
    put(cache, SECOND)
    assert cache.flush(60)
    assert kept(disk, SECOND) == len(SECOND)
    disk.close(10)


def test_the_bytes_of_the_day_are_not_forgotten_with_the_directory(tmp_path: Path) -> None:
    kv = tmp_path / "kv"
    disk = quick(kv, daily_bytes=1 << 20, clock=Clock())
    cache = over(disk)
    put(cache, FIRST)
    assert cache.flush(60)
    before = disk.stats()["written_today"]
    assert before
    emptied(kv)
    wait_until(lambda: told(disk) == ("on", 0, 0), "it is empty and on")
    put(cache, SECOND)
    assert cache.flush(60)
    disk.close(10)
    assert int((kv / "written").read_text().split()[1]) >= 2 * before


def behind_a_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "link").symlink_to(folder.parent / "elsewhere")
    folder.rename(folder.with_name("was"))
    (folder.parent / "link").rename(folder)


def gone(folder: Path) -> None:
    folder.rename(folder.with_name("was"))


def another(folder: Path) -> None:
    gone(folder)
    folder.mkdir()


@pytest.mark.parametrize("away", [behind_a_link, gone, another])
@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_is_made_where_the_folder_that_it_was_in_is_not(
    away: Callable[[Path], None], depth: int, tmp_path: Path
) -> None:
    kv = tmp_path / "a" / "b" / "kv"
    disk = quick(kv)
    cache = over(disk)
    put(cache, FIRST)
    assert cache.flush(60)
    folder = kv.parents[depth - 1]
    away(folder)
    wait_until(lambda: "the folder that it was in is" in told(disk)[0], "the reason is told")
    put(cache, SECOND)
    cache.flush(60)
    with pytest.raises(OSError, match="the folder that it was in is"):
        disk.place.open(make=True)
    assert not kv.exists()
    assert not any(tmp_path.glob("elsewhere/*")) and not any(tmp_path.glob("a/elsewhere/*"))
    folder.unlink() if folder.is_symlink() else removed(folder)
    folder.with_name("was").rename(folder)
    wait_until(lambda: told(disk)[0] == "on", "it is used again where it was")
    put(cache, SECOND)
    assert cache.flush(60)
    assert kept(disk, FIRST) == len(FIRST) and kept(disk, SECOND) == len(SECOND)
    disk.close(10)


class Volumes(System):
    """What is opened under this name is of another device than all else, while it is there."""

    there = True

    def __init__(self, name: str) -> None:
        self._volume, self._fds = name, set[int]()

    def open_folder(self, parent: int, name: str) -> int:
        fd = super().open_folder(parent, name)
        if self.there and name == self._volume:
            self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._fds.discard(fd)
        super().close(fd)

    def stat(self, fd: int) -> os.stat_result:
        about = super().stat(fd)
        return os.stat_result((*about[:2], about.st_dev + 1, *about[3:])) if fd in self._fds else about


def test_nothing_is_made_where_a_volume_was_that_was_the_directory_itself(tmp_path: Path) -> None:
    volumes = Volumes("kv")
    place = Place(tmp_path / "kv", volumes)
    volumes.close(place.open(make=True))
    volumes.there = False
    with pytest.raises(OSError, match="it is on another volume now"):
        place.open(make=True)
    (tmp_path / "kv").rmdir()
    with pytest.raises(FileNotFoundError):
        place.open(make=True)
    assert not (tmp_path / "kv").exists()
