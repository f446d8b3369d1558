"""Whose directory it is, what lies in it, and that nothing is ever reached outside of it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from mlx_cache import DiskTier, DiskUnusable
from mlx_cache.disk import Place
from mlx_cache.disk.directory import Directory
from mlx_cache.disk.system import System
from tests.mlx_cache.disk.parts import files, over, put, template, temporaries, tier
from tests.mlx_cache.oracle import check_content

TEXT = list(range(1, 23))


def filled(path: Path) -> Path:
    disk = tier(path)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    disk.close(10)
    return path


def reason(path: Path) -> str:
    """Why a directory is refused, in a line."""
    with pytest.raises(DiskUnusable) as refused:
        tier(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    return str(refused.value)


def test_what_is_made_is_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        filled(tmp_path / "a" / "kv")
    finally:
        os.umask(before)
    for path in [tmp_path / "a" / "kv", *(tmp_path / "a" / "kv").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    for mode in (0o770, 0o702, 0o777, 0o1777):
        (tmp_path / "kv").mkdir(exist_ok=True)
        (tmp_path / "kv").chmod(mode)
        assert "can be written by others" in reason(tmp_path / "kv")
    assert list((tmp_path / "kv").iterdir()) == []
    (tmp_path / "kv").chmod(0o755)
    filled(tmp_path / "kv")
    (tmp_path / "kv" / "v1").chmod(0o777)
    assert "can be written by others" in reason(tmp_path / "kv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir(mode=0o700)
    os.chown(tmp_path / "kv", 12345, 12345)
    assert "belongs to another user" in reason(tmp_path / "kv")


def test_a_link_and_a_file_in_the_path_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    for place in ("link", "dangling", "file", "file/kv"):
        assert reason(tmp_path / place)
    assert (tmp_path / "file").read_text() == "x" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\udc80\0"])
def test_a_path_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    assert reason(tmp_path / name)


@pytest.mark.parametrize("what", ["v1", "quarantine", "secret"])
@pytest.mark.parametrize("how", ["a link", "a link to nothing", "something else"])
def test_what_stands_in_place_of_its_parts_is_refused(what: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir(mode=0o700)
    victim = tmp_path / "victim"
    if how == "a link":
        victim.write_bytes(b"v" * 32) if what == "secret" else victim.mkdir(mode=0o700)
        victim.chmod(0o600 if what == "secret" else 0o700)
    if how == "something else":
        (tmp_path / "kv" / what).mkdir(mode=0o700) if what == "secret" else (tmp_path / "kv" / what).write_text("x")
    else:
        (tmp_path / "kv" / what).symlink_to(victim)
    assert reason(tmp_path / "kv")
    assert victim.exists() == (how == "a link")


@pytest.mark.parametrize("change", ["short", "long", "readable", "a pipe"])
def test_a_secret_that_is_no_secret_is_refused(change: str, tmp_path: Path) -> None:
    secret = filled(tmp_path / "kv") / "secret"
    if change == "readable":
        secret.chmod(0o644)
    elif change == "a pipe":
        secret.unlink()
        os.mkfifo(secret, 0o600)
    else:
        secret.write_bytes(b"x" * (31 if change == "short" else 33))
    assert "secret is not a file of 32 bytes for us alone" in reason(tmp_path / "kv")


def test_workers_that_start_together_agree_on_a_secret(tmp_path: Path) -> None:
    start, secrets = threading.Barrier(4), list[tuple[int, bytes]]()

    def work() -> None:
        for number in range(20):
            directory = Directory(Place(tmp_path / f"kv-{number}", System()), System())
            start.wait(60)
            directory.open()
            directory.sweep_root()
            secrets.append((number, directory.secret))
            directory.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(secrets) == 80 and len(set(secrets)) == 20
    assert temporaries(tmp_path) == []


def test_a_link_in_place_of_a_file_or_a_folder_is_not_followed(tmp_path: Path) -> None:
    root = filled(tmp_path / "kv")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in files(root)[:2]:
        path.rename(moved / path.name)
        path.symlink_to(moved / path.name)
    for folder in sorted({path.parent for path in files(root)})[2:4]:
        folder.rename(moved / folder.name)
        folder.symlink_to(moved / folder.name)
    kept = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    disk = tier(root)
    cache = over(disk)
    fetched = disk.read("m", [*TEXT, 99], template())
    if fetched.caches is not None:
        check_content(fetched.caches, "m", TEXT[: fetched.length])
    put(cache, TEXT)
    cache.flush(60)
    disk.clear()
    disk.close(10)
    assert {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == kept


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    root = filled(tmp_path / "kv")
    space = next((root / "v1").iterdir())
    for place in (root, root / "v1", space, next(space.iterdir())):
        (place / "notes.txt").write_text("mine")
        (place / "folder").mkdir()
    disk = tier(root)
    assert disk.stats()["files"] == 6
    disk.clear()
    disk.close(10)
    assert len(list(root.rglob("notes.txt"))) == 4


def test_what_a_dead_worker_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    root = filled(tmp_path / "kv")
    system, folder = System(), files(root)[0].parent
    for place in (root, folder):
        (place / ".tmp-1-dead").write_text("half")
    fd = os.open(folder, os.O_RDONLY)
    writing = system.create(fd, ".tmp-1-alive")
    assert system.try_lock(writing)
    disk = tier(root)
    assert [path.name for path in temporaries(root)] == [".tmp-1-alive"]
    system.close(writing)
    system.close(fd)
    os.utime(folder)
    disk._opened.writer.scan()  # type: ignore[union-attr]
    assert temporaries(root) == []
    disk.close(10)


def test_a_read_only_directory_is_read_and_the_reason_is_told(tmp_path: Path) -> None:
    root = filled(tmp_path / "kv")

    class ReadOnly(System):
        def make_folder(self, parent: int, name: str) -> None:
            raise OSError(30, "Read-only file system") if name not in ("v1", "quarantine") else FileExistsError

        def create(self, folder: int, name: str) -> int:
            raise OSError(30, "Read-only file system")

        def open_file(self, folder: int, name: str, *, writing: bool = False) -> int:
            if writing:
                raise OSError(30, "Read-only file system")
            return super().open_file(folder, name)

    disk = tier(root, system=ReadOnly())
    cache = over(disk)
    check_content(cache.fetch_from_disk("m", [*TEXT, 99], template()).caches or [], "m", TEXT)
    put(cache, [5, *TEXT])
    cache.flush(60)
    assert disk.stats()["state"] == "off: Read-only file system"
    disk.close(10)


def test_a_missing_directory_that_cannot_be_made_leaves_the_cache_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    disk = DiskTier(tmp_path / "file" / "kv", max_bytes=1 << 20)
    with pytest.raises(DiskUnusable):
        disk.open()
    cache = over(disk)
    put(cache, TEXT)
    assert cache.fetch("m", [*TEXT, 99]).length == 22
    assert cache.stats()["disk"]["state"].startswith("off: ") and "kv" in cache.stats()["disk"]["state"]
    disk.close(1)
