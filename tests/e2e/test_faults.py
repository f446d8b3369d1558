"""Parts that fail inside the worker: what it costs whom, and that the process ends where it must."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.faulty import Faulty
from tests.e2e.faulty_worker import PANIC_TEXT, PANICS, STOP_STRING
from tests.e2e.http2 import status_of_call
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker
from tests.models import write_deeper, write_model
from tests.tiers import slow

STORY = "Once upon a time"
INTERNAL = grpc.StatusCode.INTERNAL
ENDLESS = prompt(STORY, 4000, IgnoreEOS=True)
ENGINE_DEAD = 4
CHUNK = 64
STREAM = "/backend.Backend/PredictStream"
LATE = {"grpc-timeout": "4S"}


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


@pytest.mark.parametrize("end", ["leaves", slow("is late")])
@pytest.mark.parametrize("stage", [slow("prefill"), "decode"])
def test_a_request_whose_client_leaves_or_is_late_ends_with_the_step_that_runs(
    faulty: Faulty, stage: str, end: str
) -> None:
    """That step is held until all but the engine know of the end; not one follows it."""
    worker = faulty.worker
    if stage == "prefill":
        worker.must_load(TINY_CHAT, f"prefill_chunk:{CHUNK}")
    before, lines = worker.queue(), len(worker.log.lines)
    faulty.order("hold_prefill" if stage == "prefill" else "hold", 2)
    request = prompt("word " * 1500, 3) if stage == "prefill" else ENDLESS
    with ThreadPoolExecutor(1) as pool:
        call = worker.stub.PredictStream(request, timeout=60) if end == "leaves" else None
        # By hand, for it stays: a gRPC client leaves as its deadline passes.
        data = request.SerializeToString()
        late = pool.submit(status_of_call, worker.address, STREAM, data, LATE) if call is None else None
        with faulty.held():
            if call is not None:
                call.cancel()
                worker.log.wait_for("request_ended .*end=CANCELLED", after=lines)
            if late is not None:
                assert late.result(60) == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    worker.rest()
    after = worker.queue()
    if stage == "prefill":
        assert after["prefilled_tokens"] - before["prefilled_tokens"] <= 2 * CHUNK
        assert after["decode_steps"] == before["decode_steps"]
    else:
        assert after["decode_steps"] - before["decode_steps"] <= 2


def test_a_batch_that_cannot_let_a_row_go_ends_those_that_stay(faulty: Faulty) -> None:
    worker = faulty.worker
    staying = [prompt(f"{STORY} {index}", 4000, IgnoreEOS=True) for index in range(2)]
    with running(worker.stub, *staying) as calls, running(worker.stub, ENDLESS) as (leaving,):
        worker.wait_for_queue(lambda queue: queue["decoding"] == 3)
        faulty.order("leave")
        leaving.cancel()
        assert {finish(call).code for call in calls} == {INTERNAL}


def test_a_prompt_cache_that_fails_costs_hits_and_no_request(faulty: Faulty) -> None:
    """At each of its calls, for a while: answers are those of before."""
    worker = faulty.worker
    requests = [prompt(f"{index} {STORY} " * 20, 5, Logprobs=1) for index in range(3)]
    expected = [stream(worker.stub, request) for request in requests]
    worker.rest()
    hits = [stream(worker.stub, request).trailing["x-prompt-cache-tokens"] for request in requests]
    assert all(int(hit) > 100 for hit in hits)
    lines = len(worker.log.lines)
    faulty.order("cache", 100_000)
    for request, answer in zip(requests * 2, expected * 2, strict=True):
        again = stream(worker.stub, request)
        assert again.last.logprobs == answer.last.logprobs
        assert again.trailing["x-prompt-cache-tokens"] == "0"
    worker.log.wait_for("prompt_cache_failed what=insert", after=lines)
    faulty.order("none")
    assert [stream(worker.stub, request).last.logprobs for request in requests] == [
        answer.last.logprobs for answer in expected
    ]


@pytest.fixture
def panics(faulty: Faulty) -> Iterator[Faulty]:
    """What a library in Rust prints as it fails is on standard error, and no fault of the log."""
    lines = faulty.worker.log.lines
    yield faulty
    faulty.worker.log.wait_for("panicked at")
    panic = next(index for index, line in enumerate(lines) if "panicked at" in line)
    faulty.worker.log.wait_for("^time=.*( load_failed | end=INTERNAL )", after=panic)
    lines[:] = [line for line in lines if line.startswith(("time=", "mlx-worker: "))]


@pytest.mark.slow
def test_a_tokenizer_that_panics_at_a_request_costs_that_request(
    panics: Faulty, standing_faulty: tuple[Faulty, Golden]
) -> None:
    with standing_faulty[1].beside(panics.worker):
        failed = stream(panics.worker.stub, prompt(f"{STORY} {PANIC_TEXT}", 3))
    failed.refused(INTERNAL)


@pytest.mark.slow
def test_a_tokenizer_that_panics_as_it_is_loaded_fails_the_load(panics: Faulty, tmp_path: Path) -> None:
    """A file, with nothing planted: what the library raises is no `Exception`."""
    broken = Path(copytree(TINY_CHAT, tmp_path / "broken"))
    told = json.loads((broken / "tokenizer.json").read_text())
    (broken / "tokenizer.json").write_text(json.dumps(told | {"normalizer": json.loads(PANICS)["normalizer"]}))
    result = panics.worker.load(broken)
    assert not result.success
    assert "tokenizer" in result.message and "\n" not in result.message


@pytest.mark.slow
def test_a_draft_model_that_fails_guesses_no_more_and_no_answer_is_another(faulty: Faulty, tmp_path: Path) -> None:
    worker = faulty.worker
    write_deeper(tmp_path / "large", write_model(tmp_path / "small", layers=1), layers=20)
    requests = [
        prompt(f"{index} cats sat", 60, IgnoreEOS=True, Temperature=0.9, Seed=index, Logprobs=1) for index in range(3)
    ]
    worker.must_load("large", "speculation:off", ModelPath=str(tmp_path), DraftModel="small")
    expected = [stream(worker.stub, request).last.logprobs for request in requests]
    worker.must_load("large", "speculation:draft", ModelPath=str(tmp_path), DraftModel="small")
    lines = len(worker.log.lines)
    faulty.order("draft", 5)
    with running(worker.stub, *requests, begun=False) as calls:
        assert [finish(call).last.logprobs for call in calls] == expected
    worker.log.wait_for("draft_model_stopped", after=lines)
    details = worker.info.Get(pb.InfoRequest(), timeout=60).details
    assert details["speculation"] == "off: draft stopped: its model failed (PlantedError)"


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
