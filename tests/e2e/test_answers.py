"""What clients get: one answer in two forms, counts, reasons, logprobs, seeds."""

import concurrent.futures
import json
import math
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, prompt, stream
from tests.e2e.worker import Worker

STORY = "Once upon a time"
QUESTION = "What is the capital of France?"


def both(worker: Worker, request: pb.PredictOptions) -> tuple[Answer, Answer]:
    """The same request as a whole answer and as a stream."""
    return predict(worker.stub, request), stream(worker.stub, request)


@pytest.mark.parametrize(
    "request_",
    [
        prompt(STORY, 24),
        prompt(STORY, 24, Temperature=0.8, TopK=20, TopP=0.9, MinP=0.02, Penalty=1.1, Seed=-7, Logprobs=2),
        chat(QUESTION),
        chat(QUESTION, Temperature=1.0, Seed=3),
        prompt("The capital of France is", 40, StopPrompts=["."]),
    ],
)
def test_a_whole_answer_is_its_stream_put_together(worker: Worker, request_: pb.PredictOptions) -> None:
    whole, streamed = both(worker, request_)
    assert whole.text == streamed.text
    assert (whole.last.tokens, whole.last.prompt_tokens) == (streamed.last.tokens, streamed.last.prompt_tokens)
    assert whole.last.logprobs == streamed.last.logprobs
    assert whole.reason == streamed.reason != ""
    assert len(streamed.replies) >= 2
    content = "".join(d.content for reply in streamed.replies for d in reply.chat_deltas)
    assert content == streamed.text


def test_messages_go_through_the_template_whatever_prompt_says(worker: Worker) -> None:
    request = chat(QUESTION)
    expected = predict(worker.stub, request)
    assert "Paris" in expected.text
    request.Prompt = "Tell me a short story."
    assert predict(worker.stub, request).text == expected.text
    request.UseTokenizerTemplate = False
    raw = predict(worker.stub, request)
    assert raw.last.prompt_tokens == predict(worker.stub, prompt(request.Prompt, 1)).last.prompt_tokens
    assert raw.last.prompt_tokens != expected.last.prompt_tokens


def test_the_first_pieces_of_an_answer_differ(worker: Worker) -> None:
    for request in (prompt("The capital of France is", 12), prompt(STORY, 12)):
        first, second = stream(worker.stub, request).replies[:2]
        assert first.message
        assert first.message != second.message


def test_counts_are_running_totals_on_every_reply(worker: Worker) -> None:
    answer = stream(worker.stub, prompt(STORY, 20, IgnoreEOS=True))
    assert [reply.tokens for reply in answer.replies] == sorted(reply.tokens for reply in answer.replies)
    assert answer.last.tokens == 20
    ids = worker.stub.TokenizeString(prompt(STORY)).tokens
    assert {reply.prompt_tokens for reply in answer.replies} == {len(ids)}
    assert answer.last.timing_token_generation > 0
    again = stream(worker.stub, prompt(STORY, 20, IgnoreEOS=True))
    assert again.last.prompt_tokens == len(ids)  # cached by now, counted all the same


def test_the_end_of_sequence_token_is_not_counted(worker: Worker) -> None:
    answer = stream(worker.stub, chat(QUESTION, 200, Logprobs=1))
    assert answer.reason == "stop"
    assert answer.last.tokens == len(answer.logprobs) < 200


def test_trailing_metadata_has_what_a_reply_has_no_field_for(worker: Worker) -> None:
    whole, streamed = both(worker, prompt(STORY, 5, CorrelationId="order 66\n"))
    for answer in (whole, streamed):
        assert answer.reason == "length"
        assert answer.trailing["x-request-id"] == "order66"
        assert float(answer.trailing["x-queue-ms"]) >= 0
        assert float(answer.trailing["x-prefill-ms"]) >= 0
    assert both(worker, prompt(STORY, 1))[0].trailing["x-request-id"]


def test_logprobs_hold_every_token_and_are_complete_on_the_last_reply(worker: Worker) -> None:
    answer = stream(worker.stub, prompt(STORY, 12, Logprobs=1, TopLogprobs=5))
    assert all(not reply.logprobs for reply in answer.replies[:-1])
    assert len(answer.logprobs) == 12
    for entry in answer.logprobs:
        assert entry.keys() == {"id", "token", "bytes", "logprob", "top_logprobs"}
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 5
        assert tops == sorted(tops, reverse=True)
        assert math.isclose(entry["logprob"], tops[0], abs_tol=1e-5)  # greedy
        assert sum(map(math.exp, tops)) <= 1 + 1e-4
    spoken = b"".join(bytes(entry["bytes"]) for entry in answer.logprobs)
    assert spoken.decode() == answer.text
    assert worker.stub.Detokenize(pb.DetokenizeRequest(tokens=answer.tokens)).content == answer.text


def test_an_answer_without_logprobs_asked_has_none(worker: Worker) -> None:
    assert stream(worker.stub, prompt(STORY, 4)).last.logprobs == b""


def test_a_seed_repeats_itself_whatever_shares_its_batch(worker: Worker) -> None:
    """Seeded requests repeat exactly, others do not disturb them, 0 and negatives are seeds."""

    def ask(seed: int, **fields: Any) -> Answer:
        return stream(worker.stub, prompt(STORY, 16, Temperature=1.2, Seed=seed, Logprobs=1, IgnoreEOS=True, **fields))

    seeds = (0, 1, -5, 2**31 - 1, -(2**31))
    alone = [ask(seed) for seed in seeds]
    assert len({tuple(answer.tokens) for answer in alone}) == len(seeds)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        noise = [pool.submit(ask, 9, Metadata={"seed": "random"}) for _ in seeds]
        crowd = [pool.submit(ask, seed) for seed in seeds]
        assert [answer.result().last.logprobs for answer in crowd] == [answer.last.logprobs for answer in alone]
    assert len({tuple(answer.result().tokens) for answer in noise}) == len(seeds)


def test_ignore_eos_goes_on_where_the_model_would_stop(worker: Worker) -> None:
    ended = stream(worker.stub, chat(QUESTION, 200))
    assert ended.reason == "stop"
    beyond = stream(worker.stub, chat(QUESTION, ended.last.tokens + 5, IgnoreEOS=True))
    assert (beyond.reason, beyond.last.tokens) == ("length", ended.last.tokens + 5)


def test_logit_bias_forbids_and_forces_tokens(worker: Worker) -> None:
    first = stream(worker.stub, prompt(STORY, 1, Logprobs=1)).tokens[0]
    without = stream(worker.stub, prompt(STORY, 8, Logprobs=1, LogitBias=json.dumps({first: -100})))
    assert first not in without.tokens
    wanted = without.tokens[0]
    forced = stream(worker.stub, prompt(STORY, 8, Logprobs=1, LogitBias=json.dumps({wanted: 1000})))
    assert set(forced.tokens) == {wanted}


@pytest.mark.slow
def test_no_limit_of_tokens_means_the_end_of_the_context(worker: Worker) -> None:
    """Hosts pass -1 on; the context bounds every answer."""
    worker.must_load(ContextSize=24)
    for tokens in (0, -1, -(2**31), 2**31 - 1):
        answer = stream(worker.stub, prompt(STORY, tokens, IgnoreEOS=True))
        assert answer.reason == "length"
        assert answer.last.prompt_tokens + answer.last.tokens == 24


@pytest.mark.slow
def test_a_prompt_must_leave_room_in_the_context(worker: Worker) -> None:
    """Context - 1 tokens run, context and more are refused with both numbers."""
    worker.must_load(ContextSize=64)
    ids = worker.stub.TokenizeString(pb.PredictOptions(Prompt=STORY * 40)).tokens
    texts = {n: worker.stub.Detokenize(pb.DetokenizeRequest(tokens=ids[:n])).content for n in (63, 64, 65)}
    for n in (64, 65):
        answer = stream(worker.stub, prompt(texts[n], 4))
        answer.refused(grpc.StatusCode.INVALID_ARGUMENT, f"prompt is {n} tokens, context is 64")
    fits = stream(worker.stub, prompt(texts[63], 4, IgnoreEOS=True))
    assert (fits.last.prompt_tokens, fits.last.tokens, fits.reason) == (63, 1, "length")
