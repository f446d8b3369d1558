"""Time that does not go on as it should: the process is stopped, or the time of day jumps."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, finish, prompt, running, stream
from tests.e2e.oracle import NEIGHBOUR, Golden
from tests.e2e.shifted_clock import ShiftedClock, compiler
from tests.e2e.unsteady import child
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

STORY = "Once upon a time"
OK, LATE = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED


@contextmanager
def stopped(worker: Worker, *, with_children: bool) -> Iterator[None]:
    """The worker, or all of its container, does not run meanwhile."""
    process = psutil.Process(worker.pid)
    whole = [process, *(process.children(recursive=True) if with_children else ())]
    for one in whole:
        one.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in reversed(whole):
            one.send_signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "with_children"), [(2.0, False), (10.0, True), (10.0, False)])
def test_a_worker_that_was_stopped_goes_on(
    worker: Worker, standing_worker: tuple[Worker, Golden], seconds: float, with_children: bool
) -> None:
    """No step hung because of it, and no template was slow; a deadline that passed meanwhile is kept."""
    worker.must_load(TINY_CHAT, "watchdog_s:1")
    golden = standing_worker[1]
    expected = stream(worker.stub, chat(STORY, 8)).text
    endless = prompt("word", 4000, IgnoreEOS=True)
    with running(worker.stub, NEIGHBOUR, endless) as (neighbour, other):
        late = worker.stub.PredictStream(endless, timeout=1.0)
        with suppress(grpc.RpcError):  # on a busy machine it is late before it has begun
            next(late)
        talking = worker.stub.PredictStream(chat(STORY, 8))
        held = worker.stub.PredictStream(prompt(STORY, 3, Grammar=f'root ::= "yes{seconds}"'))
        with stopped(worker, with_children=with_children):
            time.sleep(seconds)
        assert finish(late).code is LATE
        assert finish(talking).text == expected
        assert finish(held).code is OK
        answer = finish(neighbour)
        # The first reply was read when it began.
        assert (tuple(answer.tokens), golden.neighbour[1].endswith(answer.text)) == (golden.neighbour[0], True)
        other.cancel()
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)


@pytest.mark.slow
def test_a_step_that_hangs_before_and_after_a_pause_is_found_all_the_same(tmp_path: Path) -> None:
    """The pause is no part of the hang, and hides none."""
    orders = tmp_path / "orders"
    worker = Worker("--speculation", "off", command=("-m", "tests.e2e.faulty_worker", str(orders)))
    worker.expected_code = 4
    with worker:
        worker.must_load(TINY_CHAT, "watchdog_s:4")
        with running(worker.stub, prompt(STORY, 4000, IgnoreEOS=True)):
            (tmp_path / "draft").write_text("hang 1")
            (tmp_path / "draft").rename(orders)
            wait_until(lambda: not orders.exists(), "order read")
            with stopped(worker, with_children=False):
                time.sleep(6)
            time.sleep(1.5)
            assert worker.process.poll() is None
            assert worker.wait(60) == 4


@pytest.mark.slow
def test_a_process_that_renders_and_was_stopped_costs_the_requests_of_its_time(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """It is killed as one whose template loops: nobody can tell them apart. The next one is rendered anew."""
    request = chat(STORY, 3)
    expected = stream(worker.stub, request).text
    with standing_worker[1].beside(worker):
        stalled = child(worker, "render_process")
        stalled.suspend()
        failed = stream(worker.stub, request, seconds=30)
        failed.refused(grpc.StatusCode.INVALID_ARGUMENT, "took over")
        assert not stalled.is_running()
    assert stream(worker.stub, request).text == expected


@pytest.mark.slow
def test_a_process_for_grammars_that_stays_stopped_is_made_anew(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """Requests of that time are refused after a while; nobody else waits, and nobody after them."""
    stream(worker.stub, prompt(STORY, 3, Grammar='root ::= "yes"'))
    stalled = child(worker, "trial_process")
    stalled.suspend()
    with standing_worker[1].beside(worker):
        refused = stream(worker.stub, prompt(STORY, 3, Grammar='root ::= "stopped"'))
    refused.refused(grpc.StatusCode.RESOURCE_EXHAUSTED)
    held = prompt(STORY, 3, Grammar='root ::= "well"')
    wait_until(lambda: stream(worker.stub, held).code is OK, "grammars again")
    assert not stalled.is_running()
    assert any("grammar_process_hangs" in line for line in worker.log.lines)


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[ShiftedClock]:
    if not psutil.LINUX or compiler() is None:
        pytest.skip("the C library's clock is replaced with a C compiler, on Linux")
    with ShiftedClock(tmp_path) as clock:
        yield clock


@pytest.mark.slow
def test_the_time_of_day_may_jump(tmp_path: Path, clock: ShiftedClock) -> None:
    """By hours, both ways, in mid-answer: deadlines, the cache, an idle model and metrics go by another clock."""
    options = ("model_idle_s:60", "watchdog_s:30", f"prompt_cache_dir:{tmp_path}/kv", "conversation_idle_s:600")
    with Worker(environment=clock.environment) as worker:
        worker.must_load(TINY_CHAT, *options)
        golden = Golden.of(worker, tmp_path)
        kept = prompt(f"{STORY} " * 30, 4, Logprobs=1, Metadata={"conversation_id": "one"})
        expected = stream(worker.stub, kept).last.logprobs
        endless = prompt("word", 4000, IgnoreEOS=True)
        for hours in (5, -5, 0):
            with golden.beside(worker), running(worker.stub, endless, seconds=2) as (late,):
                started, lines = time.monotonic(), len(worker.log.lines)
                clock.shift(3600 * hours)
                there = time.gmtime(time.time() + 3600 * hours).tm_hour
                assert finish(late).code is LATE
                assert 1 < time.monotonic() - started < 60
            again = stream(worker.stub, kept)
            assert again.last.logprobs == expected
            assert int(again.trailing["x-prompt-cache-tokens"]) > 0
            assert 0 <= float(again.trailing["x-queue-ms"]) < 60_000
            assert 0 < worker.info.Get(pb.InfoRequest()).uptime_seconds < 3600
            worker.log.wait_for(f"^time=[-0-9]+T{there:02}:", after=lines)
        assert not any("model_asleep" in line for line in worker.log.lines)
        golden.check(worker)


@pytest.mark.slow
def test_an_idle_model_sleeps_and_wakes_whatever_the_time_of_day_does(clock: ShiftedClock) -> None:
    with Worker(environment=clock.environment) as worker:
        worker.must_load(TINY_CHAT, "model_idle_s:1")
        clock.shift(-36_000)
        worker.log.wait_for("model_asleep")
        assert stream(worker.stub, prompt(STORY, 3)).code is OK
