"""The prompt cache's directory under the real worker: kills while it writes, spoilt files, a full disk, a rival."""

import concurrent.futures
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

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
