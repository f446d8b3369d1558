"""Models come and go while clients talk: loads, replacements, Free, and what each leaves behind."""

import concurrent.futures
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, finish, predict, prompt, running, stream
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

STORY = "Once upon a time"
ENDLESS = prompt(STORY, 4000, IgnoreEOS=True)
EMPTY = pb.HealthMessage()


def free(worker: Worker) -> pb.Result:
    """Free within what the host waits for it."""
    return worker.stub.Free(EMPTY, timeout=5)


def not_loaded(worker: Worker) -> None:
    """Assert that every call which needs a model says so, in the words that make a host reload."""
    code, words = grpc.StatusCode.FAILED_PRECONDITION, "model not loaded"
    predict(worker.stub, prompt(STORY, 1)).refused(code, words)
    stream(worker.stub, prompt(STORY, 1)).refused(code, words)
    predict(worker.stub, prompt("", 1)).refused(code, words)  # whatever else is wrong with it
    calls = (
        (worker.stub.TokenizeString, prompt(STORY)),
        (worker.stub.Detokenize, pb.DetokenizeRequest(tokens=[1])),
        (worker.stub.ModelMetadata, pb.ModelOptions()),
    )
    for method, message in calls:
        with pytest.raises(grpc.RpcError, match=words) as caught:
            method(message, timeout=60)
        assert caught.value.code() is code  # type: ignore[attr-defined]


def mlx_bytes(worker: Worker) -> int:
    """Bytes in MLX arrays."""
    return worker.stub.Status(EMPTY, timeout=60).memory.breakdown["mlx_active"]


def test_before_a_load_every_call_says_that_no_model_is_loaded() -> None:
    """Health, Status, GetMetrics, Info and Free answer all the same."""
    with Worker() as worker:
        not_loaded(worker)
        assert worker.stub.Health(EMPTY, timeout=60).message == b"OK"
        assert worker.stub.Status(EMPTY, timeout=60).state == pb.StatusResponse.UNINITIALIZED
        assert worker.stub.GetMetrics(pb.MetricsRequest(), timeout=60).tokens_generated == 0
        assert worker.info.Get(pb.InfoRequest(), timeout=60).model == ""
        assert free(worker).success
        not_loaded(worker)


def test_the_same_model_again_is_loaded_already(worker: Worker) -> None:
    stream(worker.stub, prompt(STORY, 4))
    before = worker.queue()["requests"]
    with running(worker.stub, ENDLESS) as (call,):
        worker.must_load()
        worker.wait_for_queue(lambda queue: queue["requests"] == before + 1)  # a new load begins at 0
        assert next(call).tokens


@pytest.mark.slow
def test_other_options_are_another_load(worker: Worker) -> None:
    stream(worker.stub, prompt(STORY, 4))
    worker.must_load(TINY_CHAT, "max_rows:3", ContextSize=100)
    assert worker.queue()["requests"] == 0
    assert worker.info.Get(pb.InfoRequest(), timeout=60).context == 100


@pytest.mark.slow
def test_loads_at_once_are_one_after_another(worker: Worker, random_model: Callable[..., Path]) -> None:
    """The same model loads once; the last of different ones stays."""
    models = [random_model(), random_model("llama"), TINY_CHAT]
    for folders in ([models[0]] * 6, models * 2):
        together = threading.Barrier(len(folders))

        def load(folder: Path, together: threading.Barrier = together) -> pb.Result:
            together.wait(60)
            return worker.load(folder)

        first_line = len(worker.log.lines)
        with concurrent.futures.ThreadPoolExecutor(len(folders)) as pool:
            assert all(result.success for result in pool.map(load, folders))
        loads = [line for line in worker.log.lines[first_line:] if " model_loaded " in line]
        assert len(loads) == 1 if len(set(folders)) == 1 else len(loads) >= 3
        loaded = worker.info.Get(pb.InfoRequest(), timeout=60)
        assert loaded.model in map(str, folders)
        assert stream(worker.stub, prompt(STORY, 2, ModelIdentity=loaded.model)).last.tokens > 0


def test_another_model_ends_running_requests_and_takes_nothing_over(
    worker: Worker, random_model: Callable[..., Path]
) -> None:
    """In decode, in prefill and in the queue alike; the new model's answers are its own."""
    other = random_model(vocab=768, context=8192)
    worker.must_load(other)
    request = prompt(STORY * 20, 12, Logprobs=1, IgnoreEOS=True)
    expected = stream(worker.stub, request).last.logprobs
    worker.must_load(TINY_CHAT, "max_rows:2")
    decoding, waiting = prompt(STORY * 20, 4000, IgnoreEOS=True), prompt(STORY, 5)
    with running(worker.stub, decoding, decoding) as calls, running(worker.stub, waiting, begun=False) as queued:
        worker.wait_for_queue(lambda queue: queue["waiting"] == 1)
        worker.must_load(other)
        assert [finish(call).code for call in (*calls, *queued)] == [grpc.StatusCode.ABORTED] * 3
    assert stream(worker.stub, request).last.logprobs == expected
    worker.must_load()
    assert "Paris" in stream(worker.stub, chat("What is the capital of France?")).text


def test_free_in_the_middle_of_answers(worker: Worker) -> None:
    """Within 5 s, twice, and the memory is back."""
    free(worker)
    empty = mlx_bytes(worker)
    worker.must_load()
    weights = (TINY_CHAT / "model.safetensors").stat().st_size
    long = prompt("word " * 6000, 4)
    with running(worker.stub, *[ENDLESS] * 4) as decoding, running(worker.stub, long, begun=False) as prefilling:
        worker.wait_for_queue(lambda queue: queue["prefilling"] == 1)
        wait_until(lambda: mlx_bytes(worker) > empty + 1.2 * weights, "memory of the model and its rows")
        assert free(worker).success
        assert [finish(call).code for call in (*decoding, *prefilling)] == [grpc.StatusCode.ABORTED] * 5
    assert free(worker).success
    not_loaded(worker)
    assert worker.stub.Status(EMPTY, timeout=60).state == pb.StatusResponse.UNINITIALIZED
    assert mlx_bytes(worker) <= empty + 4096
    worker.must_load()
    assert stream(worker.stub, prompt(STORY, 4)).last.tokens == 4


@pytest.mark.slow
def test_free_and_loads_against_each_other_leave_a_worker_that_works(
    worker: Worker, random_model: Callable[..., Path]
) -> None:
    """Every request ends with a status that fits, whatever it met."""
    other = random_model()
    allowed = {
        grpc.StatusCode.OK,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
    over = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(_ask_until, over, worker) for _ in range(4)]
        try:
            for _ in range(4):
                freed = pool.submit(free, worker)
                loads = [pool.submit(worker.load, other), pool.submit(worker.load)]
                assert freed.result(60).success
                # A Free stops the load that runs, which says so; any other succeeds.
                results = [load.result(60) for load in loads]
                assert all(result.success or "cancelled" in result.message for result in results), results
            worker.must_load()
        finally:
            over.set()
        codes = {code for future in asked for code in future.result(60)}
    assert codes <= allowed, codes
    assert grpc.StatusCode.ABORTED in codes


def _ask_until(over: threading.Event, worker: Worker) -> set[grpc.StatusCode]:
    codes: set[grpc.StatusCode] = set()
    while not over.is_set():
        codes.add(stream(worker.stub, prompt(STORY, 6, Temperature=1.0)).code)
    return codes


@pytest.mark.slow
def test_memory_comes_back_load_after_load(worker: Worker, random_model: Callable[..., Path]) -> None:
    sizes: list[int] = []
    for _ in range(4):
        worker.must_load(random_model())
        stream(worker.stub, prompt(STORY * 30, 20))
        stream(worker.stub, prompt(STORY, 2, Grammar='root ::= "yes"'))
        stream(worker.stub, chat("hello", 2))
        worker.must_load()
        stream(worker.stub, prompt(STORY, 4))
        worker.rest()
        sizes.append(mlx_bytes(worker))
    assert max(sizes[1:]) <= sizes[0] + 65_536


def test_status_metrics_and_info_tell_of_the_loaded_model(worker: Worker) -> None:
    worker.must_load(TINY_CHAT, "max_rows:4")
    answer: Answer = stream(worker.stub, prompt(STORY, 16, IgnoreEOS=True))
    worker.rest()
    status = worker.stub.Status(EMPTY, timeout=60)
    assert status.state == pb.StatusResponse.READY
    weights = (TINY_CHAT / "model.safetensors").stat().st_size
    # The file is float16, which a CPU holds as float32.
    assert 0.9 * weights < status.memory.breakdown["weights"] < 2.2 * weights
    assert status.memory.breakdown["live_kv"] == 0
    assert status.memory.breakdown["cached_kv"] > 0
    assert status.memory.total >= status.memory.breakdown["weights"] + status.memory.breakdown["cached_kv"]
    metrics = worker.stub.GetMetrics(pb.MetricsRequest(), timeout=60)
    assert metrics.tokens_generated == 16
    assert metrics.prompt_tokens_processed == answer.last.prompt_tokens
    assert metrics.tokens_per_second > 0
    info = worker.info.Get(pb.InfoRequest(), timeout=60)
    assert (info.model, info.mode, info.blas) == (str(TINY_CHAT), "batched", "reference")
    assert info.context == 8192
    assert info.uptime_seconds > 0
    assert info.device.startswith("cpu")


def test_status_is_busy_while_a_request_runs_and_live_kv_is_counted(worker: Worker) -> None:
    with running(worker.stub, ENDLESS):
        wait_until(lambda: worker.stub.Status(EMPTY, timeout=60).memory.breakdown["live_kv"] > 0, "live KV")
        assert worker.stub.Status(EMPTY, timeout=60).state == pb.StatusResponse.BUSY


def test_model_metadata_tells_what_the_model_can(worker: Worker) -> None:
    facts = worker.stub.ModelMetadata(pb.ModelOptions(), timeout=60)
    assert facts.supports_thinking


def test_tokens_are_as_predict_runs_them(worker: Worker) -> None:
    asked = chat("What is the capital of France?", 1)
    tokens = worker.stub.TokenizeString(asked, timeout=60)
    assert tokens.length == len(tokens.tokens) == predict(worker.stub, asked).last.prompt_tokens
    only_messages = pb.PredictOptions(Messages=asked.Messages)
    assert worker.stub.TokenizeString(only_messages, timeout=60).tokens == tokens.tokens
    raw = worker.stub.TokenizeString(prompt(STORY), timeout=60)
    assert worker.stub.Detokenize(pb.DetokenizeRequest(tokens=raw.tokens), timeout=60).content == STORY
