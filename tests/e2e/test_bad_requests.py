"""What is wrong with a request is said in one line that names the field, and nothing else happens."""

import json
import math
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, finish, predict, prompt, running, stream
from tests.e2e.worker import TINY_CHAT, Worker

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN, INF = math.nan, math.inf
STORY = "Once upon a time"


def raw(worker: Worker, method: str, data: bytes, **options: Any) -> Answer:
    """Send bytes as a request."""
    kind = worker.channel.unary_stream if method == "PredictStream" else worker.channel.unary_unary
    call = kind(f"/backend.Backend/{method}")
    if method == "PredictStream":
        return finish(call(data, timeout=30, **options))
    answer = Answer()
    try:
        answer.replies.append(pb.Reply.FromString(call(data, timeout=30, **options)))
    except grpc.RpcError as error:
        answer.code, answer.details = error.code(), error.details()
    return answer


@pytest.mark.parametrize("method", ["Predict", "PredictStream", "TokenizeString"])
@pytest.mark.parametrize("data", [b"\xff" * 9, prompt(STORY).SerializeToString()[:-3] + b"\x80"])
def test_bytes_that_are_no_message(worker: Worker, method: str, data: bytes) -> None:
    """INVALID_ARGUMENT, not UNKNOWN with a Python class."""
    raw(worker, method, data).refused(INVALID, "not a valid backend.PredictOptions")


@pytest.mark.parametrize("method", ["Predict", "PredictStream"])
def test_a_string_that_is_not_utf_8(worker: Worker, method: str) -> None:
    """Field 1 is a string."""
    raw(worker, method, b"\x0a\x02\xff\xfe").refused(INVALID, "backend.PredictOptions")


def test_unknown_fields_are_accepted_and_unknown_methods_are_not(worker: Worker) -> None:
    """A newer host may send more than we know."""
    unknown_field = b"\x9a\x3f\x03abc"  # field 1011, length-delimited
    answer = raw(worker, "Predict", prompt(STORY, 3).SerializeToString() + unknown_field)
    assert answer.text == predict(worker.stub, prompt(STORY, 3)).text
    raw(worker, "Nonsense", b"").refused(grpc.StatusCode.UNIMPLEMENTED)


def test_a_message_over_the_limit(worker: Worker) -> None:
    """GRPC itself answers."""
    answer = predict(worker.stub, pb.PredictOptions(Prompt="a" * (60 << 20)))
    answer.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")


def test_metadata_over_the_limit(worker: Worker) -> None:
    """60 KiB of header."""
    answer = raw(worker, "Predict", b"", metadata=(("x-long", "a" * (60 << 10)),))
    answer.refused(grpc.StatusCode.RESOURCE_EXHAUSTED)


OUT_OF_RANGE = [
    *(("Temperature", value) for value in (NAN, INF, -INF, -0.1, -1e-9, 101)),
    *(("TopP", value) for value in (NAN, INF, -0.1, 1.01)),
    *(("MinP", value) for value in (NAN, -INF, -0.1, 1.01)),
    *(("TypicalP", value) for value in (NAN, INF, -0.1, 1.01)),
    *(("TopK", value) for value in (-2, -(2**31))),
    *(("Penalty", value) for value in (NAN, INF, -1, 1e-30)),
    *(("PresencePenalty", value) for value in (NAN, INF, -2.1, 2.1)),
    *(("FrequencyPenalty", value) for value in (NAN, -INF, -2.1, 2.1)),
    ("Repeat", -2),
    ("Logprobs", -1),
    ("TopLogprobs", 21),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_by_name(worker: Worker, field: str, value: float) -> None:
    """NaN above all, which every comparison lets through."""
    answer = stream(worker.stub, prompt(STORY, 3, **{field: value}))
    answer.refused(INVALID, "TopLogprobs" if field == "Logprobs" and value > 0 else field)


@pytest.mark.parametrize("top_k", [-1, 0, 768, 100_000, 2**31 - 1])
def test_a_top_k_of_everything_is_off(worker: Worker, top_k: int) -> None:
    """An index past the vocabulary must not reach MLX."""
    request = prompt(STORY, 8, Temperature=1.0, Seed=2)
    expected = stream(worker.stub, request).text
    request.TopK = top_k
    assert stream(worker.stub, request).text == expected


@pytest.mark.parametrize("request_", [pb.PredictOptions(), prompt(""), pb.PredictOptions(UseTokenizerTemplate=True)])
def test_an_empty_prompt(worker: Worker, request_: pb.PredictOptions) -> None:
    predict(worker.stub, request_).refused(INVALID, "prompt is empty")
    stream(worker.stub, request_).refused(INVALID, "prompt is empty")


BIASES = [
    "{not json", "[1]", '"x"', "3", '{"a": 1}', '{"1": "x"}', '{"1": null}', '{"1": true}', '{"1.5": 1}',
    '{"1": NaN}', '{"1": Infinity}', '{"1": 1e39}',
    '{"1": 1e999}', '{"1": -Infinity}', '{"1": ' + "9" * 5000 + "}", "{" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("bias", BIASES, ids=[text[:24] for text in BIASES])
def test_a_logit_bias_that_is_none(worker: Worker, bias: str) -> None:
    stream(worker.stub, prompt(STORY, 3, LogitBias=bias)).refused(INVALID, "LogitBias")


@pytest.mark.parametrize("token", [768, -1, 2**31, 2**40, 10**30])
def test_a_bias_of_an_id_outside_the_vocabulary_changes_nothing(worker: Worker, token: int) -> None:
    """Clients send ids of other tokenizers; in MLX such an id writes out of bounds."""
    expected = stream(worker.stub, prompt(STORY, 8)).text
    assert stream(worker.stub, prompt(STORY, 8, LogitBias=f'{{"{token}": 100}}')).text == expected


def test_a_temperature_too_small_to_be_of_use_is_greedy(worker: Worker) -> None:
    expected = stream(worker.stub, prompt(STORY, 8)).text
    assert stream(worker.stub, prompt(STORY, 8, Temperature=1e-5, Seed=3)).text == expected


def test_a_developer_is_a_system_to_a_template_that_does_not_know_the_role(worker: Worker) -> None:
    def asked(role: str) -> pb.PredictOptions:
        messages = [pb.Message(role=role, content="Be brief."), pb.Message(role="user", content="Hi")]
        return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=8)

    expected = stream(worker.stub, asked("system"))
    assert (expected.code, stream(worker.stub, asked("developer")).text) == (grpc.StatusCode.OK, expected.text)


@pytest.mark.parametrize("option", ["tool_parser:../x", "reasoning_parser:zz", 'chat_template_kwargs:{"messages": []}'])
def test_an_option_that_cannot_be_followed_is_refused_in_a_sentence(worker: Worker, option: str) -> None:
    result = worker.load(TINY_CHAT, option)
    assert (result.success, option.split(":")[0] in result.message) == (False, True)
    assert predict(worker.stub, prompt(STORY, 1)).text


def test_a_bias_against_every_token_is_refused_or_harmless(worker: Worker) -> None:
    """The same large bias on all tokens changes nothing; no NaN comes of it."""
    expected = stream(worker.stub, prompt(STORY, 4)).text
    bias = json.dumps({str(token): -10_000 for token in range(768)})
    answer = stream(worker.stub, prompt(STORY, 4, LogitBias=bias))
    assert answer.code in (grpc.StatusCode.OK, INVALID)
    assert answer.code is INVALID or answer.text == expected


DEEP = "[" * 100_000
BAD_JSON = [
    "{not json",
    DEEP,
    '[{"type": "function", "function": {"name": 1}}]',
    "[" + "9" * 5000 + "]",
    '[{"a": NaN}]',
]


@pytest.mark.parametrize("tools", BAD_JSON, ids=[text[:16] for text in BAD_JSON])
def test_tools_that_are_broken(worker: Worker, tools: str) -> None:
    """Also RecursionError and the limit of an int's digits."""
    stream(worker.stub, chat("hello", 3, Tools=tools)).refused(INVALID, "Tools")


@pytest.mark.parametrize("choice", ["{not json", DEEP, '{"type": "function"}', '{"a": 1e999}', "sometimes"])
def test_a_tool_choice_that_is_broken(worker: Worker, choice: str) -> None:
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
    stream(worker.stub, chat("hello", 3, Tools=tools, ToolChoice=choice)).refused(INVALID, "ToolChoice")


@pytest.mark.parametrize("calls", ["{not json", DEEP, '[{"function": 1}]', "[" + "9" * 5000 + "]"])
def test_tool_calls_in_messages_that_are_broken(worker: Worker, calls: str) -> None:
    request = chat("hello", 3)
    request.Messages.append(pb.Message(role="assistant", tool_calls=calls))
    request.Messages.append(pb.Message(role="user", content="and?"))
    stream(worker.stub, request).refused(INVALID, "Messages")


@pytest.mark.parametrize("field", ["Images", "Videos", "Audios"])
def test_media_are_refused_by_a_text_model(worker: Worker, field: str) -> None:
    for ask in (predict, stream):
        ask(worker.stub, chat("What is this?", 3, **{field: ["aGk="]})).refused(INVALID, field)


def test_requests_for_numbers_that_ask_of_nothing(worker: Worker) -> None:
    calls: list[tuple[Any, Any, str]] = [
        (worker.stub.Embedding, prompt(STORY), "Embeddings"),
        (worker.stub.Embedding, pb.PredictOptions(Embeddings="a", EmbeddingTokens=[1]), "EmbeddingTokens"),
        (worker.stub.Embedding, pb.PredictOptions(EmbeddingTokens=[1, 768]), "EmbeddingTokens"),
        (worker.stub.Embedding, pb.PredictOptions(EmbeddingTokens=[-1]), "EmbeddingTokens"),
        (worker.stub.Embedding, pb.PredictOptions(Embeddings="word " * 9000), "Embeddings"),
        (worker.stub.Embedding, pb.PredictOptions(Embeddings="a", Metadata={"embedding_prompt": "x"}), "prompt"),
        (worker.stub.Rerank, pb.RerankRequest(query="", documents=["d"]), "query"),
        (worker.stub.Rerank, pb.RerankRequest(query="q"), "documents"),
        (worker.stub.Rerank, pb.RerankRequest(query="q", documents=["d", ""]), "documents[1]"),
        (worker.stub.Rerank, pb.RerankRequest(query="q", documents=["d"], top_n=-1), "top_n"),
        (worker.stub.Rerank, pb.RerankRequest(query="q", documents=["d", "word " * 9000]), "documents[1]"),
        (worker.stub.Rerank, pb.RerankRequest(query="q", documents=["d"] * 1025), "documents"),
        (worker.stub.Score, pb.ScoreRequest(prompt="p"), "candidates"),
        (worker.stub.Score, pb.ScoreRequest(prompt="p", candidates=["c"], stable_prefix_len=-1), "stable_prefix_len"),
        (worker.stub.Score, pb.ScoreRequest(prompt="p", candidates=["c", "word " * 9000]), "candidates[1]"),
        (worker.stub.Score, pb.ScoreRequest(prompt="p", candidates=["c"] * 1025), "candidates"),
        (worker.stub.Score, pb.ScoreRequest(prompt="word " * 20_000, candidates=["c"] * 100), "limit"),
    ]
    for method, message, words in calls:
        with pytest.raises(grpc.RpcError) as caught:
            method(message, timeout=30)
        error: Any = caught.value
        assert error.code() is INVALID, (words, error.details())
        assert words in error.details()


def test_detokenize_refuses_ids_that_the_model_does_not_have(worker: Worker) -> None:
    for token in (-1, 768, 2**31 - 1):
        with pytest.raises(grpc.RpcError, match="outside") as caught:
            worker.stub.Detokenize(pb.DetokenizeRequest(tokens=[token]), timeout=60)
        assert caught.value.code() is INVALID  # type: ignore[attr-defined]


def test_a_request_for_another_model(worker: Worker) -> None:
    """The host wants the code and the words."""
    worker.must_load()
    for ask in (predict, stream):
        answer = ask(worker.stub, prompt(STORY, 3, ModelIdentity="another/model"))
        answer.refused(grpc.StatusCode.NOT_FOUND, "model identity mismatch")
    with pytest.raises(grpc.RpcError, match="model identity mismatch"):
        worker.stub.TokenizeString(prompt(STORY, ModelIdentity="another/model"), timeout=60)
    own = worker.info.Get(pb.InfoRequest(), timeout=60).model
    assert predict(worker.stub, prompt(STORY, 3, ModelIdentity=own)).text


@pytest.mark.slow
def test_neighbours_of_bad_requests_are_exact(worker: Worker) -> None:
    wanted = [prompt(STORY, 150, IgnoreEOS=True, Temperature=1.0, Seed=seed, Logprobs=1) for seed in range(3)]
    alone = [stream(worker.stub, request).last.logprobs for request in wanted]
    with running(worker.stub, *wanted) as calls:
        for field, value in OUT_OF_RANGE:
            assert stream(worker.stub, prompt(STORY, 3, **{field: value})).code is INVALID
        for bias in BIASES:
            assert stream(worker.stub, prompt(STORY, 3, LogitBias=bias)).code is INVALID
        assert not any(call.done() for call in calls)
        assert [finish(call).last.logprobs for call in calls] == alone
