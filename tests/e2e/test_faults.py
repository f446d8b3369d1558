"""Parts that fail inside the worker: what it costs whom, and that the process ends where it must."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.faulty_worker import STOP_STRING
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.tiers import slow

STORY = "Once upon a time"
INTERNAL = grpc.StatusCode.INTERNAL
ENDLESS = prompt(STORY, 4000, IgnoreEOS=True)
ENGINE_DEAD = 4


class Faulty:
    """A worker that fails on demand."""

    def __init__(self, folder: Path) -> None:
        self._orders = folder / "orders"
        # What is planted counts calls of the model, and takes one over several tokens for a prompt's.
        command = ("-m", "tests.e2e.faulty_worker", str(self._orders))
        self.worker = Worker("--speculation", "off", command=command)

    def order(self, kind: str, count: int = 1) -> None:
        """Have the next fault happen."""
        draft = self._orders.with_suffix(".draft")
        draft.write_text(f"{kind} {count}")
        draft.rename(self._orders)

    def obeyed(self) -> None:
        """Wait until the order has been read."""
        wait_until(lambda: not self._orders.exists(), "order read")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faulty, Golden]]:
    faulty = Faulty(tmp_path_factory.mktemp("orders"))
    with faulty.worker as worker:
        worker.must_load()
        yield faulty, Golden.of(worker)


@pytest.fixture
def faulty(standing: tuple[Faulty, Golden]) -> Iterator[Faulty]:
    """A worker that outlives its faults, checked afterwards."""
    yield standing[0]
    standing[1].check(standing[0].worker)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Faulty]:
    """A worker of its own, which is to die with the code of a dead engine."""
    faulty = Faulty(tmp_path)
    faulty.worker.expected_code = ENGINE_DEAD
    with faulty.worker:
        yield faulty


@pytest.mark.parametrize("step", [slow(1), 2, slow(7)])
def test_a_fault_in_one_requests_output_is_its_own(faulty: Faulty, step: int) -> None:
    """At its k-th token; the neighbour is exact."""
    stub = faulty.worker.stub
    neighbour = prompt(STORY, 40, IgnoreEOS=True, Temperature=1.0, Seed=5, Logprobs=1)
    expected = stream(stub, neighbour).last.logprobs
    with running(stub, neighbour) as (call,):
        failed = stream(stub, prompt(STORY, 30, IgnoreEOS=True, StopPrompts=[f"{STOP_STRING}{step}"]))
        assert failed.code is INTERNAL
        assert "planted" not in failed.details
        assert len(failed.replies) < step + 1
        assert finish(call).last.logprobs == expected


def test_logits_that_are_not_numbers_end_their_own_row(faulty: Faulty) -> None:
    """Nothing can be drawn from them; token 0 for ever is no answer."""
    stub = faulty.worker.stub
    neighbour = prompt("Tell me", 60, IgnoreEOS=True, Temperature=1.0, Seed=5, Logprobs=1)
    expected = stream(stub, neighbour).last.logprobs
    with running(stub, ENDLESS) as (first,), running(stub, neighbour) as (second,):
        faulty.order("nan", 3)
        assert finish(first).code is INTERNAL
        assert finish(second).last.logprobs == expected


@pytest.mark.parametrize("step", [slow(1), 2, slow(5)])
def test_a_fault_in_the_forward_pass_costs_the_batch_and_nothing_else(faulty: Faulty, step: int) -> None:
    """All of the batch INTERNAL, none of its KV kept, then all is as before."""
    worker = faulty.worker
    texts = [f"{STORY} {step} {index}" for index in range(3)]
    wanted = [prompt(text, 12, IgnoreEOS=True, Logprobs=1, PromptCacheRO=True) for text in texts]
    expected = [stream(worker.stub, request).last.logprobs for request in wanted]
    with running(worker.stub, *(prompt(text, 3000, IgnoreEOS=True) for text in texts)) as calls:
        worker.wait_for_queue(lambda queue: queue["decoding"] == 3)
        faulty.order("raise", step)
        ends = [finish(call) for call in calls]
    assert {end.code for end in ends} == {INTERNAL}
    assert all("planted" not in end.details and "fault" in end.details for end in ends)
    # The prompts' KV may be there; of the lost answers nothing is, and what is there is right.
    again = [stream(worker.stub, request) for request in wanted]
    assert [answer.last.logprobs for answer in again] == expected
    for answer, text in zip(again, texts, strict=True):
        prompt_tokens = worker.stub.TokenizeString(prompt(text)).length
        assert int(answer.trailing["x-prompt-cache-tokens"]) < prompt_tokens


def test_a_fault_in_prefill_is_its_own_requests(faulty: Faulty) -> None:
    """A prompt has caches of its own, so rows that decode are untouched."""
    stub = faulty.worker.stub
    neighbour = prompt(STORY, 80, IgnoreEOS=True, Temperature=1.0, Seed=6, Logprobs=1)
    expected = stream(stub, neighbour).last.logprobs
    with running(stub, neighbour) as (call,):
        faulty.order("prefill", 2)
        failed = stream(stub, prompt("word " * 1500, 3))
        assert failed.code is INTERNAL
        assert finish(call).last.logprobs == expected


def test_a_dead_engine_ends_every_waiter_and_the_process(doomed: Faulty) -> None:
    """UNAVAILABLE at once for those who run and those who wait, and a last line that says why."""
    worker = doomed.worker
    worker.must_load(TINY_CHAT, "max_rows:2")
    with running(worker.stub, ENDLESS, ENDLESS) as calls, running(worker.stub, *[ENDLESS] * 3, begun=False) as queued:
        worker.wait_for_queue(lambda queue: queue["in_flight"] == 5)
        doomed.order("die")
        assert {finish(call).code for call in (*calls, *queued)} == {grpc.StatusCode.UNAVAILABLE}
    assert worker.wait(60) == ENGINE_DEAD
    assert worker.log.whole()[-1].startswith("mlx-worker: the engine")
    assert not any("Traceback" in line for line in worker.log.lines)


def test_a_signal_ends_a_worker_whose_load_hangs_within_its_grace_and_a_second(doomed: Faulty) -> None:
    worker = doomed.worker
    worker.expected_code = 0
    doomed.order("load", 1)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(worker.load, TINY_CHAT)
        doomed.obeyed()
        started = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        # The grace is 1 s here; the rest is for a busy machine. The load hangs for longer.
        assert time.monotonic() - started < 20
        assert isinstance(loading.exception(), grpc.RpcError)


@pytest.mark.slow
def test_a_step_that_hangs_is_found_and_ends_the_process(doomed: Faulty) -> None:
    """Health fails first, so that the host sees it; then the process is gone."""
    worker = doomed.worker
    worker.must_load(TINY_CHAT, "watchdog_s:1")
    assert _serving(worker)
    with running(worker.stub, ENDLESS) as (call,):
        doomed.order("hang")
        doomed.obeyed()
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"  # not yet a hang
        assert finish(call).code is grpc.StatusCode.UNAVAILABLE
    assert worker.wait(60) == ENGINE_DEAD
    assert "in one step" in worker.log.whole()[-1]


def _serving(worker: Worker) -> bool:
    stub = health_pb2_grpc.HealthStub(worker.channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING
