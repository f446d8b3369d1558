"""Clients that leave, are late, are slow, or are many."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.asking import Answer, finish, prompt, read, running, stream
from tests.e2e.http2 import answer_to_call, connect, whole_call
from tests.e2e.worker import CHANNEL_OPTIONS, TINY_CHAT, Worker, wait_until
from tests.observed import growth
from tests.tiers import slow

STORY = "Once upon a time"
ENDLESS = prompt(STORY, 4000, IgnoreEOS=True)
LONG = "word " * 3000


def generated(worker: Worker) -> float:
    """Tokens that the model has been made to say since its load."""
    return worker.queue()["generated_tokens"]


def left(worker: Worker, before: float, clients: int, in_flight: int = 0) -> None:
    """Wait until so many clients' requests are gone, because they have left: not because their answers ended."""
    # The two are not told at one moment.
    worker.wait_for_queue(lambda queue: queue["in_flight"] <= in_flight and queue["cancelled"] >= before + clients)


def test_a_client_that_leaves_in_prefill(worker: Worker) -> None:
    """The prompt is not read to its end, and what was read is of use; test_faults.py has the chunk that was running."""
    worker.must_load(TINY_CHAT, "prefill_chunk:64")
    with running(worker.stub, prompt(LONG, 4), begun=False):
        worker.wait_for_queue(lambda queue: queue["prefilled_tokens"] > 0)
    left(worker, 0, 1)
    assert worker.queue()["prefilled_tokens"] < 2500
    # What was stored is exact: the same prompt, taken up where it was left, gives the same answer as new.
    fields: dict[str, Any] = {"Logprobs": 1, "IgnoreEOS": True}
    resumed = stream(worker.stub, prompt(LONG[:1500], 8, **fields))
    worker.must_load(TINY_CHAT, "prefill_chunk:64", "prompt_cache_size:0")
    assert stream(worker.stub, prompt(LONG[:1500], 8, **fields)).last.logprobs == resumed.last.logprobs


def test_a_client_that_leaves_in_decode_costs_no_further_step(worker: Worker) -> None:
    """The row is gone, its neighbour exact."""
    neighbour = prompt(STORY, 80, IgnoreEOS=True, Temperature=1.0, Seed=1, Logprobs=1)
    expected = stream(worker.stub, neighbour).last.logprobs
    before = worker.queue()["cancelled"]
    with running(worker.stub, neighbour) as (staying,):
        with running(worker.stub, *[ENDLESS] * 3) as leaving:
            for call in leaving:
                next(call), next(call)
        left(worker, before, 3, in_flight=1)
        assert finish(staying).last.logprobs == expected
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)
    before = generated(worker)
    stream(worker.stub, prompt(STORY, 3))
    wait_until(lambda: generated(worker) == before + 3, "three more tokens and no others")


def test_a_unary_call_is_cancelled_as_well(worker: Worker) -> None:
    """Nobody reads from a unary call, so only the cancel itself can tell."""
    before = worker.queue()["cancelled"]
    call = worker.stub.Predict.future(ENDLESS, timeout=60)
    worker.wait_for_queue(lambda queue: queue["decoding"] == 1)
    call.cancel()
    left(worker, before, 1)


def test_connections_that_break(worker: Worker) -> None:
    """All streams of a channel end with it."""
    worker.rest()
    before, came = worker.queue()["cancelled"], worker.queue()["requests"]
    channels = [grpc.insecure_channel(worker.address, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in "1234"]
    calls = [rpc.BackendStub(channel).PredictStream(ENDLESS) for channel in channels for _ in range(10)]
    # One that leaves while its prompt is prepared has never been the engine's, and is not counted.
    worker.wait_for_queue(lambda queue: queue["requests"] == came + 40)
    for channel in channels:
        channel.close()
    left(worker, before, 40)
    assert {finish(call).code for call in calls} == {grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("stage", ["running", slow("waiting")])
def test_a_deadline_ends_the_work(worker: Worker, stage: str) -> None:
    """DEADLINE_EXCEEDED, and no step after it."""
    if stage == "waiting":
        worker.must_load(TINY_CHAT, "max_rows:1")
    others = 1 if stage == "waiting" else 0
    with running(worker.stub, *[ENDLESS] * others):
        worker.wait_for_queue(lambda queue: queue["decoding"] == others)
        before, read = generated(worker), worker.queue()["prefilled_tokens"]
        for seconds in (0.4, 3.0):
            late = stream(worker.stub, ENDLESS, seconds=seconds)
            assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if late.replies or stage == "waiting":
                break  # else the machine was too busy to begin with it
        assert bool(late.replies) == (stage == "running")
        worker.wait_for_queue(lambda queue: queue["in_flight"] == others)
        if stage == "waiting":
            assert worker.queue()["prefilled_tokens"] == read
        else:
            assert generated(worker) < before + ENDLESS.Tokens


def test_a_deadline_that_has_passed_is_refused(worker: Worker) -> None:
    """It never becomes a request. By hand: a gRPC client would not send it. gRPC's server ends some such by itself, in
    other words, and some have a moment left as they come."""
    data = ENDLESS.SerializeToString()

    def is_refused_by_us() -> bool:
        before = worker.queue()
        told = answer_to_call(worker.address, "/backend.Backend/Predict", data, {"grpc-timeout": "1n"})
        assert b"grpc-status\x014" in told
        worker.rest()
        figures = ("requests", "prefilled_tokens", "generated_tokens")
        return b"deadline exceeded" in told and all(worker.queue()[name] == before[name] for name in figures)

    wait_until(is_refused_by_us, "one whose time was over")


@pytest.mark.slow
def test_a_load_whose_client_leaves_does_not_break_the_next(worker: Worker) -> None:
    for context, seconds in enumerate((0.001, 0.01, 0.03, 0.06, 0.1), 50):
        load = worker.stub.LoadModel.future(pb.ModelOptions(Model=str(TINY_CHAT), MaxModelLen=context), timeout=seconds)
        assert load.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)
    worker.must_load(TINY_CHAT, MaxModelLen=123)
    assert worker.info.Get(pb.InfoRequest()).context == 123
    assert stream(worker.stub, prompt(STORY, 4)).last.tokens == 4


def test_health_answers_while_the_worker_works(worker: Worker) -> None:
    """In prefill of a long prompt, with a full batch, while 1 MB is encoded. benchmarks/health.py measures."""
    with running(worker.stub, *[ENDLESS] * 8), running(worker.stub, prompt(LONG, 4), begun=False):
        assert_health_answers(worker, 150)
    over = threading.Event()
    megabyte = pb.PredictOptions(Prompt="word and " * 120_000)
    encoding = threading.Thread(target=encode_until, args=(over, worker, megabyte))
    encoding.start()
    try:
        assert_health_answers(worker, 100)
    finally:
        over.set()
        encoding.join(30)


def assert_health_answers(worker: Worker, count: int) -> None:
    """Within 250 ms, but for one in a hundred. Others use the machine at times; a loop that is held up always is."""
    tails: list[float] = []
    while len(tails) < 8:
        tails.append(percentile(health_seconds(worker, count), 0.99))
        if tails[-1] < 0.25:
            return
    raise AssertionError(tails)


def encode_until(over: threading.Event, worker: Worker, request: pb.PredictOptions) -> None:
    """Have it encoded again and again."""
    while not over.is_set():
        assert worker.stub.TokenizeString(request, timeout=30).length > 100_000


def health_seconds(worker: Worker, count: int) -> list[float]:
    """Seconds of one Health after another."""
    took: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        took.append(time.perf_counter() - started)
    return took


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@pytest.mark.slow
def test_a_slow_reader_holds_up_nobody_and_is_let_go(
    worker: Worker, random_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Memory is bounded, the engine never waits, patience has an end. Tokens of 1 kB fill any window.

    gRPC's own client reads on for whoever does not; so others stop at the window that each has at first.
    """
    folder = Path(shutil.copytree(random_model(context=16_384), tmp_path / "wordy"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tokenizer["model"]["vocab"]["w" * 1000] = tokenizer["model"]["vocab"].pop(last)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    worker.must_load(folder, "reader_buffer_bytes:100000", "reader_patience_s:0.2")
    wordy = prompt("x", 16_000, LogitBias='{"271": 1000}')
    with running(worker.stub, wordy) as (slow,):
        quick = stream(worker.stub, prompt("y", 50, IgnoreEOS=True))
        assert quick.last.tokens == 50
        worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)
        assert worker.queue()["generated_tokens"] < 12_000
        end = finish(slow)
    assert end.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "unread" in end.details
    endless = whole_call("/backend.Backend/PredictStream", wordy.SerializeToString())
    failed = worker.queue()["failed"]
    with growth(worker.pid) as grown, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(worker.address)).sendall(endless)
        worker.wait_for_queue(lambda queue: queue["failed"] + queue["cancelled"] >= failed + 8)
        worker.rest()
    assert grown.most < 32 << 20  # their answers have 128 MB


@pytest.mark.slow
def test_two_hundred_streams_at_once_all_finish(worker: Worker) -> None:
    """With the defaults; afterwards nothing is left of them (the oracle looks)."""
    requests = [
        prompt(f"{STORY} {index}", 4 + index % 9, IgnoreEOS=True, Temperature=0.5 * (index % 3), Seed=index)
        for index in range(200)
    ]
    answers = at_once(worker, requests)
    assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
    assert [answer.last.tokens for answer in answers] == [request.Tokens for request in requests]


def test_a_full_queue_refuses_at_once(worker: Worker) -> None:
    """Two rows and a queue of eight; Health and Tokenize are no part of it."""
    worker.must_load(TINY_CHAT, "max_rows:2", "queue_size:8")
    with running(worker.stub, *[ENDLESS] * 2), running(worker.stub, *[ENDLESS] * 8, begun=False):
        worker.wait_for_queue(lambda queue: queue["in_flight"] == 10)
        for answer in at_once(worker, [ENDLESS] * 20):
            answer.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "in flight")
        assert worker.queue()["in_flight"] == 10  # nobody's end was waited for
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        assert worker.stub.TokenizeString(prompt(STORY), timeout=60).length
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)
    assert stream(worker.stub, prompt(STORY, 3)).last.tokens == 3


@pytest.mark.slow
def test_requests_start_in_the_order_they_came(worker: Worker) -> None:
    """Nobody starves."""
    worker.must_load(TINY_CHAT, "max_rows:1")
    ended: list[int] = []

    async def note(stub: Any, index: int) -> None:
        assert (await read(stub, prompt(f"{index}", 4, IgnoreEOS=True))).code is grpc.StatusCode.OK
        ended.append(index)

    async def ask() -> None:
        # One connection and one thread: what the worker sent first is read first.
        async with grpc.aio.insecure_channel(worker.address) as channel:
            stub, info = rpc.BackendStub(channel), rpc.InfoStub(channel)
            asked: list[asyncio.Task[None]] = []
            for index in range(6):
                asked.append(asyncio.create_task(note(stub, index)))
                # Not only accepted: while one is prepared, the next may be prepared beside it.
                while (await info.Get(pb.InfoRequest())).queue["waiting"] < index + 1:
                    await asyncio.sleep(0.001)
            await asyncio.gather(*asked)

    with running(worker.stub, prompt(STORY, 400, IgnoreEOS=True)):
        asyncio.run(ask())
    assert ended == list(range(6))


@pytest.mark.slow
def test_a_prompt_that_can_never_fit_is_refused_and_others_wait(worker: Worker) -> None:
    """The cache gives way, then requests wait, and what is alone too large is refused by its size."""
    worker.must_load(TINY_CHAT, "kv_bytes:8MiB")
    too_long = stream(worker.stub, prompt(LONG, 4))
    too_long.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "bytes of KV")
    requests = [prompt(f"{index} {LONG[:1500]}", 30, IgnoreEOS=True, Seed=index) for index in range(12)]
    answers = at_once(worker, requests)
    assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
    assert [answer.last.tokens for answer in answers] == [30] * 12
    worker.rest()
    queue = worker.queue()
    assert queue["cached_kv_bytes"] <= queue["kv_budget_bytes"] == 8 << 20


def at_once(worker: Worker, requests: list[pb.PredictOptions], seconds: float = 100.0) -> list[Answer]:
    """Ask all of them together, on one channel."""

    async def ask() -> list[Answer]:
        async with grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS) as channel:
            stub = rpc.BackendStub(channel)
            return list(await asyncio.gather(*(read(stub, request, seconds=seconds) for request in requests)))

    return asyncio.run(ask())
