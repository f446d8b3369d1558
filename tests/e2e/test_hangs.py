"""What hangs inside the worker: who notices, and what becomes of the rest (docs/operations.md has the table)."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.oracle import Golden
from tests.e2e.unsteady import Unsteady
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

STORY = "Once upon a time"
OK = grpc.StatusCode.OK
ENGINE_DEAD = 4


@pytest.mark.slow
def test_a_load_that_hangs_on_the_engine_thread_is_found_and_ends_the_process(tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    command = ("-m", "tests.e2e.faulty_worker", str(orders))
    with Worker(command=command, environment={"LOAD_PATIENCE": "2"}) as worker:
        worker.expected_code = ENGINE_DEAD
        worker.must_load()
        (tmp_path / "draft").write_text("load 1")
        (tmp_path / "draft").rename(orders)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(worker.load, TINY_CHAT, "watchdog_s:2", "max_rows:3")
            wait_until(lambda: not orders.exists(), "order read")
            assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"  # not yet a hang
            assert worker.wait(60) == ENGINE_DEAD
            assert isinstance(loading.exception(), grpc.RpcError)
    assert "in a load for 2 s" in worker.log.whole()[-1]


@pytest.mark.slow
def test_a_disk_that_hangs_holds_up_one_request_for_a_while_and_nobody_else(tmp_path: Path) -> None:
    """A read is given up after ten seconds, an opening too; what should be written is not waited for at the end."""
    unsteady = Unsteady(tmp_path, "--grace", "1s")
    directory = f"prompt_cache_dir:{tmp_path}/kv"
    long = [prompt(f"{index} {STORY} " * 60, 4, Logprobs=1, IgnoreEOS=True) for index in range(6)]
    with unsteady.worker as worker:
        worker.must_load(TINY_CHAT, directory, "prompt_cache_bytes:2MiB", "watchdog_s:5")
        golden = Golden.of(worker, tmp_path)
        expected = [stream(worker.stub, request).last.logprobs for request in long]
        worker.rest()
        unsteady.order("disk hangs")
        with running(worker.stub, *long, begun=False) as calls:
            quick = stream(worker.stub, prompt("word", 10, IgnoreEOS=True))
            assert quick.code is OK
            assert any(call.is_active() for call in calls)  # it has waited for none of them
            assert [finish(call).last.logprobs for call in calls] == expected
        # Another model's, or this one's anew.
        worker.must_load(TINY_CHAT, directory, "max_rows:3")
        facts = worker.info.Get(pb.InfoRequest())
        assert "has not answered" in str(facts), facts
        assert stream(worker.stub, long[0]).last.logprobs == expected[0]
        unsteady.order("disk goes")
        worker.must_load(TINY_CHAT, directory, "prompt_cache_bytes:2MiB")
        assert [stream(worker.stub, request).last.logprobs for request in long] == expected
        golden.check(worker)
        unsteady.order("disk hangs")
        started = time.monotonic()
        stream(worker.stub, prompt(f"9 {STORY} " * 60, 4))
    # The grace, what a hanging disk is waited for, and some for a busy machine.
    assert time.monotonic() - started < 30
