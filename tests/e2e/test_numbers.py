"""Embedding, Score and Rerank over the socket, against the model called by itself."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.worker import Worker
from tests.models import write_model
from tests.straight import Straight, with_yes_and_no

NEAR = 1e-5
QUESTION = "Question: which of the bridges over the river is the oldest one, and who built it? Answer:"
CANDIDATES = [" the stone bridge", " the iron bridge", "", " none"]
DOCUMENTS = [f"{index}. A bridge of stone, built in {1700 + 7 * index}." for index in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_yes_and_no(write_model(tmp_path_factory.mktemp("numbers") / "qwen3", "qwen3"))


@pytest.fixture(scope="module")
def straight(folder: Path) -> Straight:
    return Straight(folder)


@pytest.fixture
def worker(another_worker: Worker, folder: Path) -> Worker:
    another_worker.must_load(folder, "prefill_chunk:64")
    return another_worker


def embed(worker: Worker, text: str, **fields: Any) -> pb.EmbeddingResult:
    return worker.stub.Embedding(pb.PredictOptions(Embeddings=text, **fields), timeout=60)


def score(worker: Worker, **fields: Any) -> tuple[pb.ScoreResponse, dict[str, str]]:
    request = pb.ScoreRequest(
        prompt=QUESTION, candidates=CANDIDATES, include_token_logprobs=True, length_normalize=True, **fields
    )
    response, call = worker.stub.Score.with_call(request, timeout=60)
    return response, dict(call.trailing_metadata())


def rerank(worker: Worker, **fields: Any) -> tuple[pb.RerankResult, dict[str, str]]:
    request = pb.RerankRequest(query="the oldest bridge", documents=DOCUMENTS, **fields)
    response, call = worker.stub.Rerank.with_call(request, timeout=60)
    return response, dict(call.trailing_metadata())


def same_scores(response: pb.ScoreResponse, straight: Straight) -> None:
    assert len(response.candidates) == len(CANDIDATES)
    for candidate, scored in zip(CANDIDATES, response.candidates, strict=True):
        tokens = [*QUESTION.encode(), *candidate.encode()]
        expected = straight.logprobs(tokens, len(QUESTION))
        assert scored.num_tokens == len(expected)
        assert [entry.token for entry in scored.tokens] == list(candidate)
        assert np.allclose([entry.log_prob for entry in scored.tokens], expected, atol=NEAR, rtol=NEAR)
        assert scored.log_prob == pytest.approx(sum(expected), abs=NEAR * max(1, len(expected)))
        mean = sum(expected) / len(expected) if expected else 0.0
        assert scored.length_normalized_log_prob == pytest.approx(mean, abs=NEAR)


def test_an_embedding_is_as_a_host_checks_it(worker: Worker, straight: Straight) -> None:
    made = embed(worker, "old bridges")
    assert (made.tokens, made.dim, made.prompt_tokens) == (1, 64, 11)
    assert made.layout == pb.EMBEDDING_LAYOUT_FINAL
    assert np.abs(np.array(made.embeddings) - straight.vector(b"old bridges")).max() < NEAR
    ids = worker.stub.Embedding(pb.PredictOptions(EmbeddingTokens=list(b"old bridges")), timeout=60)
    assert ids == made


def test_every_token_has_its_vector_where_the_host_pools(
    another_worker: Worker, folder: Path, straight: Straight
) -> None:
    another_worker.must_load(folder, "pooling:none")
    made = embed(another_worker, "old bridges")
    assert (made.tokens, made.dim, made.layout) == (11, 64, pb.EMBEDDING_LAYOUT_PER_TOKEN)
    ours = np.array(made.embeddings).reshape(11, 64)
    assert np.allclose(ours, straight.hidden(b"old bridges"), atol=NEAR, rtol=NEAR)


def test_options_choose_pooling_and_length(another_worker: Worker, folder: Path, straight: Straight) -> None:
    another_worker.must_load(folder, "pooling:mean", "embd_normalize:-1")
    expected = straight.hidden(b"old bridges").mean(axis=0)
    assert np.allclose(embed(another_worker, "old bridges").embeddings, expected, atol=NEAR, rtol=NEAR)


def test_scores_are_those_of_teacher_forcing_cold_and_cached(
    another_worker: Worker, folder: Path, straight: Straight
) -> None:
    worker = another_worker
    assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
    worker.must_load(folder, "prefill_chunk:64")
    cold, first = score(worker)
    same_scores(cold, straight)
    worker.rest()
    cached, second = score(worker)
    assert (first["x-prompt-cache-tokens"], second["x-prompt-cache-tokens"]) == ("0", str(len(QUESTION) - 1))
    assert cached == cold


def test_ranks_are_sorted_and_cut_and_have_their_usage(worker: Worker) -> None:
    whole, _ = rerank(worker)
    assert sorted(result.index for result in whole.results) == list(range(len(DOCUMENTS)))
    scores = [result.relevance_score for result in whole.results]
    assert scores == sorted(scores, reverse=True) and all(0 <= value <= 1 for value in scores)
    assert all(result.text == DOCUMENTS[result.index] for result in whole.results)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens > sum(map(len, DOCUMENTS))
    worker.rest()
    best, trailing = rerank(worker, top_n=3)
    assert list(best.results) == list(whole.results)[:3] and best.usage == whole.usage
    assert int(trailing["x-prompt-cache-tokens"]) > 100


@pytest.mark.slow
def test_beside_eight_streams_all_are_as_alone(worker: Worker) -> None:
    wanted = [prompt(f"stream {seed}", 60, IgnoreEOS=True, Temperature=1.0, Seed=seed, Logprobs=1) for seed in range(8)]
    texts = [f"{index} bridges " * (1 + index % 5) for index in range(24)]
    alone = [stream(worker.stub, request).last.logprobs for request in wanted]
    numbers = [list(embed(worker, text).embeddings) for text in texts]
    scores, ranks = score(worker)[0], rerank(worker)[0]
    with ThreadPoolExecutor(26) as threads, running(worker.stub, *wanted) as calls:
        embeds = [threads.submit(embed, worker, text) for text in texts]
        scored, ranked = threads.submit(score, worker), threads.submit(rerank, worker)
        for future, expected in zip(embeds, numbers, strict=True):
            assert np.abs(np.array(future.result().embeddings) - expected).max() < NEAR
        assert (scored.result()[0], ranked.result()[0]) == (scores, ranks)
        assert [finish(call).last.logprobs for call in calls] == alone


def test_each_tenant_has_a_prefix_of_its_own(worker: Worker) -> None:
    request = pb.ScoreRequest(prompt=QUESTION + " more,", candidates=["a"])

    def cached(*metadata: tuple[str, str]) -> int:
        _, call = worker.stub.Score.with_call(request, timeout=60, metadata=metadata)
        worker.rest()
        return int(dict(call.trailing_metadata())["x-prompt-cache-tokens"])

    cached(("cache-salt", "a"))
    assert cached(("cache-salt", "b")) == 0
    assert cached(("cache-salt", "a")) == len(request.prompt) - 1


def test_a_deadline_and_a_client_that_leaves_end_what_runs(worker: Worker) -> None:
    many = pb.RerankRequest(query="bridges", documents=["of some length, " * 20] * 300)
    with pytest.raises(grpc.RpcError) as caught:
        worker.stub.Rerank(many, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    call = worker.stub.Rerank.future(many, timeout=60)
    worker.wait_for_queue(lambda queue: queue["prefilling"] > 0)
    call.cancel()
    worker.rest()
    assert worker.queue()["live_kv_bytes"] == 0
    assert embed(worker, "a text").dim == 64


def test_a_free_ends_what_runs_and_a_model_must_be_loaded(worker: Worker) -> None:
    call = worker.stub.Rerank.future(pb.RerankRequest(query="bridges", documents=["long, " * 50] * 300), timeout=60)
    worker.wait_for_queue(lambda queue: queue["prefilling"] > 0)
    assert worker.stub.Free(pb.HealthMessage(), timeout=60).success
    assert call.exception().code() is grpc.StatusCode.ABORTED
    requests: dict[str, Any] = {
        "Embedding": pb.PredictOptions(Embeddings="a"),
        "Score": pb.ScoreRequest(prompt="a", candidates=["b"]),
        "Rerank": pb.RerankRequest(query="a", documents=["b"]),
    }
    for name, request in requests.items():
        with pytest.raises(grpc.RpcError, match="model not loaded"):
            getattr(worker.stub, name)(request, timeout=60)


def test_info_says_what_is_done(worker: Worker, random_model: Callable[..., Path]) -> None:
    details = worker.info.Get(pb.InfoRequest(), timeout=60).details
    assert (details["embedding"], details["rerank"]) == ("pooling last, width 64, length 1", "yes_no")
    worker.must_load(random_model())
    assert worker.info.Get(pb.InfoRequest(), timeout=60).details["rerank"] == "cosine"


def test_a_host_that_loads_a_model_for_embeddings_has_cosines(another_worker: Worker, folder: Path) -> None:
    for fields, way in (({"Embeddings": True}, "cosine"), ({"Embeddings": True, "Reranking": True}, "yes_no")):
        another_worker.must_load(folder, **fields)
        assert another_worker.info.Get(pb.InfoRequest(), timeout=60).details["rerank"] == way


def test_a_prompt_or_a_query_that_is_too_long_alone_is_the_one_that_is_named(worker: Worker) -> None:
    context = worker.info.Get(pb.InfoRequest(), timeout=60).context
    words = "bridge " * context
    score = pb.ScoreRequest(prompt=words, candidates=[" a"])
    rerank = pb.RerankRequest(query=words, documents=["a"])
    late = pb.ScoreRequest(prompt="a", candidates=[words])
    for call, request, field in (
        (worker.stub.Score, score, "prompt"),
        (worker.stub.Rerank, rerank, "query"),
        (worker.stub.Score, late, "candidates[0]"),
        (worker.stub.Rerank, pb.RerankRequest(query="a", documents=["b", words]), "documents[1]"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=60)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[reportAttributeAccessIssue]
        details = refused.value.details()  # type: ignore[reportAttributeAccessIssue]
        assert details.startswith(f"{field}: ")


def test_a_special_token_in_a_scored_text_is_told_as_it_is_written(worker: Worker) -> None:
    request = pb.ScoreRequest(prompt="Yes", candidates=["<|im_end|>!"], include_token_logprobs=True)
    (candidate,) = worker.stub.Score(request, timeout=60).candidates
    assert "".join(token.token for token in candidate.tokens) == "<|im_end|>!"
