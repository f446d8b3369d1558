"""A model that nobody asks lets go of its memory, and a host notices nothing of it but a delay."""

import concurrent.futures
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt, running, stream
from tests.e2e.oracle import as_good_as_new
from tests.e2e.worker import Worker, wait_until

Model = Callable[..., Path]
EMPTY = pb.HealthMessage()
ENDLESS = prompt("Once upon a time", 4000, IgnoreEOS=True)
STORY = prompt("Once upon a time there was a model that nobody asked.", 12, Logprobs=1, IgnoreEOS=True)


@pytest.fixture(scope="module")
def process(random_model: Model) -> Iterator[Worker]:
    """A worker that was told to let every model sleep; it is stopped while one does."""
    with Worker("--model-idle", "300ms") as worker:
        with as_good_as_new(worker):
            yield worker
        worker.must_load(random_model())
        fall_asleep(worker)


def details(worker: Worker) -> dict[str, str]:
    return dict(worker.info.Get(pb.InfoRequest(), timeout=60).details)


def breakdown(worker: Worker) -> dict[str, int]:
    return dict(worker.stub.Status(EMPTY, timeout=60).memory.breakdown)


def fall_asleep(worker: Worker) -> None:
    """Wait until the weights are gone."""
    wait_until(lambda: "idle" in details(worker) and not breakdown(worker)["weights"], "sleep")


def hit(answer: Answer) -> int:
    """Prompt tokens that the cache had."""
    assert answer.code is grpc.StatusCode.OK, answer.details
    return int(answer.trailing["x-prompt-cache-tokens"])


@pytest.mark.parametrize("sampler", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_a_host_notices_nothing_of_a_model_that_sleeps(process: Worker, random_model: Model, sampler: str) -> None:
    process.must_load(random_model(), f"sampler:{sampler}")
    cold = stream(process.stub, STORY)
    warm = stream(process.stub, STORY)
    with running(process.stub, ENDLESS):
        assert breakdown(process)["weights"] > 100_000
    fall_asleep(process)
    lines = len(process.log.lines)
    asleep = breakdown(process)
    assert 0 < asleep["cached_kv"] <= asleep["mlx_active"] < asleep["cached_kv"] + 16_384
    assert details(process)["idle"].startswith("asleep since ")
    assert process.stub.Health(EMPTY, timeout=60).message == b"OK"
    assert process.stub.Status(EMPTY, timeout=60).state == pb.StatusResponse.READY
    assert process.stub.GetMetrics(pb.MetricsRequest(), timeout=60).tokens_generated >= 24
    assert process.stub.TokenizeString(STORY, timeout=60).length
    assert "idle" in details(process)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda ask: ask(process.stub, STORY), [stream, predict] * 2))
    assert {answer.last.logprobs for answer in answers} == {cold.last.logprobs}
    assert {hit(answer) for answer in answers} == {hit(warm)}
    assert hit(warm) > 0
    assert len([line for line in process.log.lines[lines:] if " model_awake " in line]) == 1
    fall_asleep(process)
    assert process.stub.Free(EMPTY, timeout=60).success
    assert breakdown(process)["mlx_active"] < 1024
    predict(process.stub, STORY).refused(grpc.StatusCode.FAILED_PRECONDITION, "model not loaded")


@pytest.mark.slow
def test_a_host_is_told_to_load_what_cannot_be_woken_up(process: Worker, random_model: Model, tmp_path: Path) -> None:
    """First the files are away, then they are others."""
    own = Path(copytree(random_model(), tmp_path / "own"))
    weights, away = own / "model.safetensors", own / "away"
    process.must_load(own)
    before = stream(process.stub, STORY)
    fall_asleep(process)
    weights.rename(away)
    stream(process.stub, STORY).refused(grpc.StatusCode.FAILED_PRECONDITION, "could not be loaded again")
    assert "model not loaded" in predict(process.stub, STORY).details
    assert not process.load(own).success
    away.rename(weights)
    after = stream(process.stub, STORY)
    assert after.last.logprobs == before.last.logprobs
    assert hit(after) > 0
    fall_asleep(process)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"rope_theta": 77.0}))
    stream(process.stub, STORY).refused(grpc.StatusCode.FAILED_PRECONDITION, "model not loaded")
    process.must_load(own)
    changed = stream(process.stub, STORY)
    assert hit(changed) == 0
    assert changed.last.logprobs != before.last.logprobs
