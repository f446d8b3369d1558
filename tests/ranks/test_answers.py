"""Two ranks on loopback give what one process gives: greedy and seeded, in company, with stops, grammars and hits."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt, running, stream
from tests.e2e.worker import ROOT, Worker
from tests.models import write_model
from tests.ranks.world import Ranks

SAME = 1e-5
# Of a model that three ranks divide.
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 192}
LONG = "the quick brown fox jumps over the lazy dog "


@dataclass(frozen=True, slots=True)
class Pair:
    """A worker of several ranks and one of a single process, with one model."""

    ranks: Ranks
    alone: Worker
    model: Path


def pair(
    tmp_path_factory: pytest.TempPathFactory, family: str, way: str, size: int, *, layers: int = 2, **options: object
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(way)
    model = write_model(folder / family, family, layers=layers, **options)  # type: ignore[arg-type]
    with Worker() as alone, Ranks(folder, size) as ranks:
        alone.must_load(model, "speculation:off")
        result = ranks.load(model, f"ranks:{way}", "memory_share:0.3")
        assert result.success, result.message
        yield Pair(ranks, alone, model)


@pytest.fixture(scope="module")
def tensor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from pair(tmp_path_factory, "qwen3", "tensor", 2)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from pair(tmp_path_factory, "qwen3_moe", "pipeline", 3, layers=4)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from pair(tmp_path_factory, "llama", "tensor", 3, extra=HEADS)


def equal(one: Answer, other: Answer) -> None:
    """Assert that two answers are the same, their logprobs nearly so."""
    assert one.code == other.code == grpc.StatusCode.OK, (one.details, other.details)
    assert (one.text, one.reason) == (other.text, other.reason)
    assert one.tokens == other.tokens
    for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
        assert abs(mine["logprob"] - theirs["logprob"]) < SAME


def asked() -> list[pb.PredictOptions]:
    """Requests of every kind that must not be told from those of one process."""
    return [
        prompt("Once upon a time", 16, Logprobs=3),
        prompt(LONG * 8, 12, Logprobs=3),
        prompt("a seed", 16, Logprobs=3, Temperature=1.0, Seed=7),
        prompt("another seed", 16, Logprobs=3, Temperature=0.8, TopP=0.9, TopK=20, Seed=8),
        prompt("a choice", 12, Logprobs=3, Grammar='root ::= "yes" | "no"'),
        prompt("penalised " * 5, 16, Logprobs=3, Penalty=1.3),
        prompt("one two three one two three one two three", 40, Logprobs=3),
    ]


def check_answers(both: Pair, *, guesses: bool = True) -> None:
    alone = [predict(both.alone.stub, request) for request in asked()]
    assert len({answer.text for answer in alone}) > 3
    for request, expected in zip(asked(), alone, strict=True):
        equal(predict(both.ranks.worker.stub, request), expected)
    # In company, from the cache, and with others that leave in the middle.
    strays = [prompt(f"stray {place}", 100) for place in range(3)]
    with running(both.ranks.worker.stub, *strays), ThreadPoolExecutor(6) as crowd:
        answers = list(crowd.map(lambda request: predict(both.ranks.worker.stub, request), asked()))
    for answer, expected in zip(answers, alone, strict=True):
        equal(answer, expected)
    assert int(answers[1].trailing["x-prompt-cache-tokens"]) > 250
    both.ranks.worker.rest()
    assert bool(both.ranks.worker.queue()["verify_passes"]) == guesses


def test_two_ranks_with_a_part_of_each_head_answer_as_one_process(tensor: Pair) -> None:
    check_answers(tensor)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_ranks_with_some_layers_each_answer_as_one_process(pipeline: Pair) -> None:
    check_answers(pipeline)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_ranks_with_a_part_of_each_head_answer_as_one_process(three: Pair) -> None:
    # A third of these heads adds up otherwise over several tokens than over one: the load's trial finds it.
    check_answers(three, guesses=False)


def test_stop_strings_cancels_and_errors_leave_no_rank_behind(tensor: Pair) -> None:
    worker = tensor.ranks.worker
    whole = predict(worker.stub, prompt("Once upon a time", 24, Logprobs=3))
    stop = whole.text[6:9]
    expected = predict(tensor.alone.stub, prompt("Once upon a time", 24, Logprobs=3, StopPrompts=[stop]))
    for _ in range(2):
        equal(stream(worker.stub, prompt("Once upon a time", 24, Logprobs=3, StopPrompts=[stop])), expected)
        with running(worker.stub, prompt(LONG, 500)):
            pass
        with running(worker.stub, prompt(LONG * 20, 500), begun=False):
            pass
        late = predict(worker.stub, prompt(LONG, 4000), seconds=0.3)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
        predict(worker.stub, prompt("x", 5, Grammar="root ::= (")).refused(grpc.StatusCode.INVALID_ARGUMENT)
    worker.rest()
    equal(predict(worker.stub, prompt("Once upon a time", 24, Logprobs=3)), whole)


@pytest.mark.slow
def test_what_does_not_hold_is_refused_in_words(tensor: Pair) -> None:
    worker = tensor.ranks.worker
    for option in ("kv_bits:8", "cache_kv_bits:8", "prompt_cache_dir:/tmp/nowhere", "model_idle_s:5", "sampler:device"):
        result = tensor.ranks.load(tensor.model, option)
        assert not result.success
        assert f"{option.partition(':')[0]}" in result.message
        assert "not over several ranks" in result.message
    result = tensor.ranks.load(tensor.model, "ranks:pipeline")
    assert not result.success
    assert "pipeline" in result.message
    assert tensor.ranks.load(tensor.model, "ranks:tensor", "memory_share:0.3").success
    with pytest.raises(grpc.RpcError) as embedding:
        worker.stub.Embedding(pb.PredictOptions(Embeddings="x"), timeout=30)
    assert "not over several ranks" in str(embedding.value)
    with pytest.raises(grpc.RpcError) as score:
        worker.stub.Score(pb.ScoreRequest(prompt="x", candidates=["y", "z"]), timeout=30)
    assert "not over several ranks" in str(score.value)


@pytest.mark.slow
def test_after_a_load_that_fails_and_a_free_the_next_load_serves(tensor: Pair, tmp_path: Path) -> None:
    stub, ranks = tensor.ranks.worker.stub, tensor.ranks
    before = predict(stub, prompt("Once upon a time", 12, Logprobs=3))
    result = ranks.load(tmp_path / "nothing")
    assert not result.success
    said = len(ranks.logs[1].lines)
    assert ranks.worker.stub.Free(pb.HealthMessage(), timeout=30).success
    ranks.logs[1].wait_for("shard_freed", 10, after=said)
    predict(stub, prompt("gone", 3)).refused(grpc.StatusCode.FAILED_PRECONDITION, "model not loaded")
    assert ranks.load(tensor.model, "ranks:tensor", "memory_share:0.3").success
    equal(predict(stub, prompt("Once upon a time", 12, Logprobs=3)), before)


@pytest.mark.slow
def test_a_load_names_every_rank_that_failed_and_leaves_all_of_them_ready(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qwen3", "qwen3", layers=2)
    elsewhere = tmp_path.joinpath(*"abcdefghij")
    elsewhere.mkdir(parents=True)
    with Ranks(tmp_path, 3, directory=elsewhere) as ranks:
        # A relative path: the others look for it elsewhere.
        result = ranks.load(Path(os.path.relpath(model, ROOT)))
        assert not result.success
        missing = "model path does not exist"
        assert re.search(f"rank 1: {missing}.*; rank 2: {missing}", result.message), result.message
        hybrid = write_model(tmp_path / "hybrid", "qwen3_next", layers=3)
        result = ranks.load(hybrid)
        assert re.search("rank [12] has layers with (ArraysCache|KVCache), rank 0 with", result.message), result.message
        two = write_model(tmp_path / "llama", "llama", layers=2, extra=HEADS)
        assert ranks.load(two, "ranks:tensor", "memory_share:0.3").success
        assert predict(ranks.worker.stub, prompt("once", 4)).code is grpc.StatusCode.OK


def test_one_process_refuses_to_be_several(tensor: Pair) -> None:
    result = tensor.alone.load(tensor.model, "ranks:tensor")
    assert not result.success
    assert "mlx-worker ranks" in result.message
    tensor.alone.must_load(tensor.model, "speculation:off")
