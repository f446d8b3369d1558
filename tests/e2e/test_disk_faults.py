"""The prompt cache's directory under the real worker: kills while it writes, spoilt files, a full disk, a rival."""

import concurrent.futures
import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import prompt, stream
from tests.e2e.mounts import mounted
from tests.e2e.oracle import Golden, half_written
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

STORY = "Once upon a time"
OK = grpc.StatusCode.OK
# Some that begin alike, so that files are shared, and each long enough for several.
ASKED = [
    prompt(f"{index % 3} {STORY} " * 50 + f" {index}", 4, Logprobs=1, IgnoreEOS=True, Temperature=0.8, Seed=index)
    for index in range(8)
]
Bits = list[bytes]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected() -> Bits:
    """What is answered without a cache."""
    with Worker("--prompt-cache-size", "0") as worker:
        worker.must_load()
        return [answered(worker, request) for request in ASKED]


def answered(worker: Worker, request: pb.PredictOptions) -> bytes:
    """The tokens of an answer with their log-probabilities."""
    answer = stream(worker.stub, request)
    assert answer.code is OK, answer.details
    return answer.last.logprobs


def over(directory: Path) -> Worker:
    """A worker that keeps little in memory, and so writes."""
    return Worker("--prompt-cache-dir", str(directory), "--prompt-cache-bytes", "2MiB", "--grace", "0")


def check_all(worker: Worker, expected: Bits, directory: Path) -> None:
    """Every answer, twice, and the oracle."""
    assert [answered(worker, request) for request in ASKED] == expected
    # After them: each thread that reads or writes has one of MLX's own from its first file on.
    golden = Golden.of(worker, directory)
    assert [answered(worker, request) for request in ASKED] == expected
    golden.check(worker)


def files(directory: Path) -> list[Path]:
    """Of keys and values: all but the secret and what is counted a day."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 4096)


@pytest.mark.timeout(400)
def test_workers_killed_while_they_write_leave_what_is_exact_or_absent(tmp_path: Path, expected: Bits) -> None:
    directory, drawn = tmp_path / "kv", random.Random(3)
    for _ in range(5):
        worker = over(directory)
        worker.expected_code = -signal.SIGKILL
        with worker:
            worker.must_load()
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(stream, worker.stub, request) for request in drawn.sample(ASKED, 8)]
                concurrent.futures.wait(asking, 60, concurrent.futures.FIRST_COMPLETED)
                time.sleep(drawn.random())
                worker.signal(signal.SIGKILL)
    with over(directory) as worker:
        worker.must_load()
        # What was being written when it was killed is swept.
        assert not half_written(directory)
        check_all(worker, expected, directory)


@pytest.mark.parametrize("how", ["a bit", "cut", "empty", "foreign", "swapped"])
def test_files_that_were_spoilt_are_misses_and_put_aside(tmp_path: Path, expected: Bits, how: str) -> None:
    directory, drawn = tmp_path / "kv", random.Random(5)
    with over(directory) as worker:
        worker.must_load()
        assert [answered(worker, request) for request in ASKED] == expected
    there = files(directory)
    assert there
    bodies = [path.read_bytes() for path in there]
    for index, path in enumerate(there):
        body = bytearray(bodies[index])
        if how == "a bit":
            body[drawn.randrange(len(body))] ^= 1 << drawn.randrange(8)
        elif how == "swapped":
            body = bytearray(bodies[index - 1])
        else:
            body = {"cut": body[: drawn.randrange(len(body))], "empty": body[:0], "foreign": bytearray(b"x" * 9999)}[
                how
            ]
        path.write_bytes(body)
    with over(directory) as worker:
        worker.must_load()
        check_all(worker, expected, directory)
        assert worker.info.Get(pb.InfoRequest(), timeout=60).cache["disk.quarantined"] > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with mounted(tmp_path / "small", "size=256k,mode=700") as place:
        yield place


def test_a_disk_that_is_full_costs_hits_and_no_request(small_disk: Path, expected: Bits) -> None:
    with over(small_disk / "kv") as worker:
        worker.must_load()
        assert [answered(worker, request) for request in ASKED] == expected
        worker.rest()
        wait_until(lambda: "nothing is written" in "".join(worker.log.lines), "that the disk is full")
        check_all(worker, expected, small_disk)


@pytest.mark.timeout(300)
def test_two_workers_on_one_directory_answer_exactly(tmp_path: Path, expected: Bits) -> None:
    directory = tmp_path / "kv"
    with over(directory) as one, over(directory) as other, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for worker in (one, other):
            worker.must_load(TINY_CHAT)
        for _ in range(2):
            asking = [pool.submit(answered, worker, request) for request in ASKED for worker in (one, other)]
            assert [task.result(120) for task in asking] == [bits for bits in expected for _ in "12"]
        for worker in (one, other):
            Golden.of(worker, directory).check(worker)


def emptied(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def removed(directory: Path) -> None:
    # The worker may make it anew while it is being removed.
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
        if not any(directory.rglob("*-*")):
            return


def replaced(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))
    directory.mkdir(mode=0o700, exist_ok=True)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("take_away", [emptied, removed, replaced])
def test_a_directory_that_is_taken_away_under_two_workers_is_made_anew(
    tmp_path: Path, expected: Bits, take_away: Callable[[Path], None]
) -> None:
    directory = tmp_path / "kv"
    with over(directory) as one, over(directory) as two:
        for worker in (one, two):
            worker.must_load()
        check_all(one, expected, directory)
        secret = (directory / "secret").read_bytes()
        take_away(directory)
        left = set((tmp_path / "moved").rglob("*"))
        for worker in (one, two):
            wait_until(lambda worker=worker: told(worker)["state"] == "on", "it is on")
            check_all(worker, expected, directory)
        if take_away is emptied:
            wait_until(
                lambda: told(one)["files"] == told(two)["files"] == 0 == len(kept(directory)), "they are cleared"
            )
            assert [answered(one, request) for request in ASKED] == expected
            # Another worker's files are learnt of within a minute.
            wait_until(
                lambda: 0 < told(one)["files"] == told(two)["files"] == len(kept(directory)), "both tell of all", 120
            )
            size = sum(file.stat().st_size for file in kept(directory))
            assert told(one)["bytes"] == told(two)["bytes"] == size
        before = told(two)["hits"]
        assert [answered(two, request) for request in ASKED] == expected
        assert told(two)["hits"] > before
        assert (directory / "secret").read_bytes() == secret
        modes = {path.stat().st_mode & 0o777 for path in (directory, *directory.rglob("*")) if path.is_dir()}
        assert modes == {0o700}
        assert {path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()} == {0o600}
        assert set((tmp_path / "moved").rglob("*")) <= left


def test_a_link_in_its_place_is_not_followed_and_the_cache_comes_back(tmp_path: Path, expected: Bits) -> None:
    directory, elsewhere = tmp_path / "kv", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    with over(directory) as worker:
        worker.must_load()
        check_all(worker, expected, directory)
        (tmp_path / "link").symlink_to(elsewhere)
        directory.rename(tmp_path / "moved")
        while not directory.is_symlink():
            shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                (tmp_path / "link").rename(directory)
        wait_until(lambda: "is a link" in str(told(worker)["state"]), "it says why")
        named = pb.CreatePrefixRequest(name="rules", prompt=STORY * 9)
        worker.prompt_cache.Create(named, timeout=60)
        assert [answered(worker, request) for request in ASKED] == expected
        assert list(elsewhere.iterdir()) == []
        directory.unlink()
        wait_until(lambda: told(worker)["state"] == "on", "it is used again")
        check_all(worker, expected, directory)
        assert [answered(worker, request) for request in ASKED] == expected
        wait_until(lambda: bool(kept(directory)), "it is written to")


def told(worker: Worker) -> dict[str, Any]:
    info = worker.info.Get(pb.InfoRequest(), timeout=60)
    figures = {name: info.cache[f"disk.{name}"] for name in ("files", "bytes", "hits")}
    return figures | {"state": info.details["prompt_cache_disk"]}


def kept(directory: Path) -> list[Path]:
    return [path for path in (directory / "v1").rglob("*-*") if path.is_file() and ".tmp" not in path.name]
