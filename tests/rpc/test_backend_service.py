"""The service over a real socket: answers, failures, cancellation."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from backend.core import errors
from backend.core.events import Delta, Failed, Piece, Usage
from backend.core.pooled import EmbedAsk, Relevances, RerankAsk, ScoreAsk, ScoredToken, Scores, Vectors
from backend.pb import backend_pb2 as pb
from tests.rpc.conftest import Worker, first, status_of
from tests.rpc.fake_engine import FakeEngine

Run = Callable[..., None]
CODES = grpc.StatusCode


def test_health_says_exactly_ok_before_and_after_a_load(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"
        await worker.backend.LoadModel(pb.ModelOptions(Model="m"))
        assert (await worker.backend.Health(pb.HealthMessage())).message == b"OK"

    scenario(test, load=False)


def test_health_is_unavailable_and_never_another_text_when_the_engine_is_dead(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.alive = False
        assert (await status_of(worker.backend.Health(pb.HealthMessage())))[0] == CODES.UNAVAILABLE
        worker.engine.ending = "rank 1 is gone"
        assert await status_of(worker.backend.Health(pb.HealthMessage())) == (CODES.UNAVAILABLE, "rank 1 is gone")

    scenario(test)


def test_a_stream_carries_the_text_in_message_and_in_one_content_delta(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        call = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"))
        replies = [reply async for reply in call]
        assert [reply.message for reply in replies] == [b"Hel", b"lo", b""]
        assert [[delta.content for delta in reply.chat_deltas] for reply in replies] == [["Hel"], ["lo"], []]
        assert [reply.tokens for reply in replies] == [1, 2, 2]
        assert all(reply.prompt_tokens == 3 for reply in replies)
        assert replies[-1].timing_prompt_processing == 2.5
        assert replies[-1].timing_token_generation == 4.0

    scenario(test)


def test_trailing_metadata_says_what_reply_has_no_field_for(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        request = pb.PredictOptions(Prompt="hi", CorrelationId="id 1\n")
        stream = worker.backend.PredictStream(request)
        assert [reply async for reply in stream]
        unary = worker.backend.Predict(request)
        await unary
        for call in (unary, stream):
            trailing = dict(await call.trailing_metadata())
            assert trailing["x-finish-reason"] == "stop"
            assert trailing["x-request-id"] == "id1"
            assert (trailing["x-queue-ms"], trailing["x-prefill-ms"]) == ("1.500", "2.500")
            assert trailing["x-prompt-cache-tokens"] == "0"

    scenario(test)


@pytest.mark.parametrize(
    "method",
    ["Predict", "PredictStream", "TokenizeString", "Detokenize", "ModelMetadata", "Embedding", "Score", "Rerank"],
)
def test_without_a_model_it_is_failed_precondition_model_not_loaded(scenario: Run, method: str) -> None:
    async def test(worker: Worker) -> None:
        request = worker_request(method)
        call = getattr(worker.backend, method)(request)
        code, details = await status_of(first(call))
        assert code == CODES.FAILED_PRECONDITION
        assert "model not loaded" in details

    scenario(test, load=False)


def worker_request(method: str) -> Any:
    return {
        "Detokenize": pb.DetokenizeRequest(),
        "ModelMetadata": pb.ModelOptions(),
        "Score": pb.ScoreRequest(),
        "Rerank": pb.RerankRequest(),
    }.get(method, pb.PredictOptions(Prompt="hi"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("TopP", "bad"), CODES.INVALID_ARGUMENT),
        (errors.Overloaded("full"), CODES.RESOURCE_EXHAUSTED),
        (errors.WorkerUnavailable("dead"), CODES.UNAVAILABLE),
        (errors.RequestAborted("freed"), CODES.ABORTED),
        (errors.DeadlineExceeded(), CODES.DEADLINE_EXCEEDED),
        (errors.InternalFault("id"), CODES.INTERNAL),
    ],
)
def test_a_failure_at_admission_and_one_in_mid_answer_have_the_same_code(
    scenario: Run, error: errors.WorkerError, code: grpc.StatusCode
) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.refusal = error
        assert await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi"))) == (code, error.message)
        worker.engine.refusal = None
        started = Delta(piece=Piece(content="a"), usage=Usage(prompt_tokens=1))
        worker.engine.script = [started, Failed(error=error)]
        assert await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi"))) == (code, error.message)
        stream = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"))
        assert (await stream.read()).message == b"a"
        assert await status_of(stream.read()) == (code, error.message)

    scenario(test)


def test_our_own_failure_is_internal_with_an_id_and_no_words_of_it(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.refusal = ZeroDivisionError("secret prompt")
        code, details = await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi")))
        assert code == CODES.INTERNAL
        assert details.startswith("internal error ")
        assert "secret" not in details
        assert "Zero" not in details

    scenario(test)


@pytest.mark.parametrize("method", ["Predict", "PredictStream"])
def test_a_client_that_cancels_cancels_the_row(scenario: Run, method: str) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = [None]
        call = getattr(worker.backend, method)(pb.PredictOptions(Prompt="hi"))
        reading = asyncio.ensure_future(first(call))
        await worker.engine.submitted.wait()
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await worker.engine.answers[0].cancelled.wait()

    scenario(test)


def test_a_client_that_stopped_reading_and_leaves_cancels_the_row(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        large = Delta(piece=Piece(content="a" * (1 << 20)), usage=Usage(prompt_tokens=1))
        worker.engine.script = [*[large] * 64, None]
        call = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"))
        await call.read()
        call.cancel()
        await worker.engine.answers[0].cancelled.wait()
        assert await worker.server.drain(grace_s=30.0)

    scenario(test)


def test_the_clients_deadline_reaches_the_engine_and_ends_the_row(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = [None]
        code, _ = await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi"), timeout=0.2))
        assert code == CODES.DEADLINE_EXCEEDED
        await worker.engine.answers[0].cancelled.wait()
        assert worker.engine.requests[0].deadline is not None
        worker.engine.script = []
        await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi")))
        assert worker.engine.requests[1].deadline is None

    scenario(test)


def test_a_request_for_another_model_is_not_found_with_the_sentinel(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        guarded = {
            "Predict": pb.PredictOptions(Prompt="hi", ModelIdentity="other"),
            "PredictStream": pb.PredictOptions(Prompt="hi", ModelIdentity="other"),
            "TokenizeString": pb.PredictOptions(Prompt="hi", ModelIdentity="other"),
            "Embedding": pb.PredictOptions(ModelIdentity="other"),
            "Rerank": pb.RerankRequest(ModelIdentity="other"),
            "Score": pb.ScoreRequest(ModelIdentity="other"),
        }
        for method, request in guarded.items():
            code, details = await status_of(first(getattr(worker.backend, method)(request)))
            assert code == CODES.NOT_FOUND, method
            assert "model identity mismatch" in details
        assert (await worker.backend.Predict(pb.PredictOptions(Prompt="hi", ModelIdentity="m"))).message == b"Hello"
        assert not [request for request in worker.engine.requests if request.prompt != "hi"]

    scenario(test)


def test_embeddings_scores_and_ranks_are_what_the_engine_computed(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        engine, backend = worker.engine, worker.backend
        engine.result = Vectors(data=struct.pack("<4f", 1, 2, 3, 4), count=2, dim=2, per_token=True)
        made = await backend.Embedding(pb.PredictOptions(Embeddings="a", Metadata={"cache_salt": "s"}))
        assert (list(made.embeddings), made.tokens, made.dim, made.prompt_tokens) == ([1, 2, 3, 4], 2, 2, 3)
        assert made.layout == pb.EMBEDDING_LAYOUT_PER_TOKEN
        engine.result = Vectors(data=struct.pack("<200f", *range(200)), count=1, dim=200, per_token=False)
        made = await backend.Embedding(pb.PredictOptions(EmbeddingTokens=[5, 6]))
        assert list(made.embeddings) == list(range(200)) and made.layout == pb.EMBEDDING_LAYOUT_FINAL
        tokens = ScoredToken(token=b"x", logprob=-1.0), ScoredToken(token=b"\xff", logprob=-2.0)
        engine.result = Scores((tokens, ()))
        asked = pb.ScoreRequest(prompt="p", candidates=["xy", ""], include_token_logprobs=True, length_normalize=True)
        scored = await backend.Score(asked, metadata=(("cache-salt", "s"),))
        first, second = scored.candidates
        assert (first.log_prob, first.length_normalized_log_prob, first.num_tokens) == (-3.0, -1.5, 2)
        assert [(entry.token, entry.log_prob) for entry in first.tokens] == [("x", -1.0), ("\ufffd", -2.0)]
        assert second == pb.CandidateScore()
        engine.result = Relevances((0.25, 0.75, 0.75))
        ranked = await backend.Rerank(pb.RerankRequest(query="q", documents=["a", "b", "c"], top_n=2))
        assert [(one.index, one.text, one.relevance_score) for one in ranked.results] == [
            (1, "b", 0.75),
            (2, "c", 0.75),
        ]
        assert (ranked.usage.total_tokens, ranked.usage.prompt_tokens) == (3, 3)
        salted, plain, score, rank = engine.computed
        assert salted.tenant == score.tenant != plain.tenant == rank.tenant == ""
        assert (salted.ask, plain.ask) == (EmbedAsk(text="a"), EmbedAsk(tokens=(5, 6)))
        assert (score.ask, rank.ask) == (
            ScoreAsk(prompt="p", candidates=("xy", "")),
            RerankAsk(query="q", documents=("a", "b", "c")),
        )

    scenario(test)


def test_a_model_that_cannot_be_loaded_is_a_result_and_not_a_status(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.load_failure = errors.ModelLoadFailed("config.json:\n missing")
        result = await worker.backend.LoadModel(pb.ModelOptions(Model="x"))
        assert (result.success, result.message) == (False, "config.json: missing")
        result = await worker.backend.LoadModel(pb.ModelOptions(Model="x", EngineArgs='{"nonsense": 1}'))
        assert not result.success
        assert "nonsense" in result.message

    scenario(test, load=False)


def test_free_twice_is_as_good_as_once_and_a_load_works_again(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        for _ in range(2):
            assert (await worker.backend.Free(pb.HealthMessage())).success
        assert (await status_of(worker.backend.Predict(pb.PredictOptions(Prompt="hi"))))[0] == CODES.FAILED_PRECONDITION
        assert (await worker.backend.LoadModel(pb.ModelOptions(Model="m"))).success
        assert (await worker.backend.Predict(pb.PredictOptions(Prompt="hi"))).message == b"Hello"

    scenario(test)


def test_tokenize_gives_tokens_and_length_and_renders_messages_where_the_prompt_is_empty(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        reply = await worker.backend.TokenizeString(pb.PredictOptions(Prompt="ab"))
        assert (list(reply.tokens), reply.length) == ([97, 98], 2)
        messages = [pb.Message(role="user", content="c")]
        reply = await worker.backend.TokenizeString(pb.PredictOptions(Messages=messages))
        assert list(reply.tokens) == [99]
        code, details = await status_of(worker.backend.TokenizeString(pb.PredictOptions()))
        assert (code, "empty" in details) == (CODES.INVALID_ARGUMENT, True)
        assert (await worker.backend.Detokenize(pb.DetokenizeRequest(tokens=[97, 98]))).content == "ab"
        refused = worker.backend.Detokenize(pb.DetokenizeRequest(tokens=[-1]))
        assert (await status_of(refused))[0] == CODES.INVALID_ARGUMENT

    scenario(test)


def test_status_metrics_metadata_and_info_are_the_engines_own(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        status = await worker.backend.Status(pb.HealthMessage())
        assert (status.state, status.memory.total) == (pb.StatusResponse.READY, 42)
        assert dict(status.memory.breakdown) == {"weights": 40, "live_kv": 2}
        metrics = await worker.backend.GetMetrics(pb.MetricsRequest())
        assert (metrics.tokens_per_second, metrics.tokens_generated) == (10.0, 2**31 - 1)
        facts = await worker.backend.ModelMetadata(pb.ModelOptions())
        assert (facts.supports_thinking, facts.tool_format.per_call_start) == (True, "<tool_call>")
        info = await worker.info.Get(pb.InfoRequest())
        assert (info.version, info.model, info.blas, dict(info.cache)) == ("1", "m", "none", {"hits": 1.0})

    scenario(test)


def test_two_hundred_streams_at_once_all_finish_and_none_is_left(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        async def one() -> bytes:
            call = worker.backend.PredictStream(pb.PredictOptions(Prompt="hi"))
            return b"".join([reply.message async for reply in call])

        assert await asyncio.gather(*(one() for _ in range(200))) == [b"Hello"] * 200
        assert len(worker.engine.answers) == 200
        assert all(answer.cancelled.is_set() for answer in worker.engine.answers)
        # The last status may arrive before its handler has returned.
        assert await worker.server.drain(grace_s=30.0)

    scenario(test)


def test_fields_without_effect_are_logged_once(scenario: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(worker: Worker) -> None:
        for _ in range(2):
            await worker.backend.Predict(pb.PredictOptions(Prompt="hi", Mirostat=2, Threads=4))

    with caplog.at_level("INFO"):
        scenario(test, engine=FakeEngine())
    lines = [record.getMessage() for record in caplog.records if "fields_without_effect" in record.getMessage()]
    assert lines == ["fields_without_effect message=PredictOptions fields=Mirostat,Threads"]


def test_prefixes_are_named_listed_and_deleted_by_tenant(scenario: Run) -> None:
    async def test(worker: Worker) -> None:
        service, alice = worker.prompt_cache, {"cache_salt": "alice"}
        made = await service.Create(pb.CreatePrefixRequest(name="a/b", prompt="hi", metadata=alice))
        assert (made.name, made.tokens, made.bytes, made.idle_seconds) == ("a/b", 3, 7, -1)
        (asked,) = worker.engine.requests
        assert (asked.keep_as, asked.prefill_only, asked.prompt) == ("a/b", True, "hi")
        assert not (await service.List(pb.ListPrefixesRequest())).prefixes
        assert [p.name for p in (await service.List(pb.ListPrefixesRequest(metadata=alice))).prefixes] == ["a/b"]
        assert not (await service.Delete(pb.DeletePrefixRequest(name="a/b"))).success
        assert (await service.Delete(pb.DeletePrefixRequest(name="a/b", metadata=alice))).success
        stats = await service.Stats(pb.PromptCacheStatsRequest())
        assert (stats.hit_rate, stats.token_hit_rate, stats.keeps) == (0.25, 0.75, "all")
        both = pb.ClearPromptCacheRequest(everything=True, metadata=alice)
        assert (await status_of(service.Clear(both)))[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert (await service.Clear(pb.ClearPromptCacheRequest(everything=True))).success

    scenario(test)
