"""A worker whose rows hold codes of 4 bits: every kind of answer, alone and in a crowd, cold and from the cache."""

import concurrent.futures
import json
from collections.abc import Iterator

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt, stream
from tests.e2e.oracle import as_good_as_new
from tests.e2e.worker import TINY_CHAT, Worker

STORY = "Once upon a time there was a boat on the river, and the people of the village went to see it. "
OBJECT = 'root ::= "{\\"name\\": \\"" [a-z]+ "\\", \\"age\\": " [0-9] [0-9]? "}"'
OPTIONS = ("kv_bits:4", "kv_group_size:32", "prefill_chunk:16")


@pytest.fixture(scope="module")
def process() -> Iterator[Worker]:
    with Worker("--kv-bits", "8", "--kv-group-size", "32") as worker, as_good_as_new(worker):
        yield worker


def asked() -> list[pb.PredictOptions]:
    return [
        prompt(STORY, 20, Logprobs=1),
        prompt("A question", 20, Temperature=0.9, TopP=0.9, Seed=5, Logprobs=1),
        prompt(STORY + "It was", 20, Temperature=1.1, TopK=30, Seed=-3, Penalty=1.2, Logprobs=1),
        prompt("Tell me of a person: ", 40, Grammar=OBJECT, Logprobs=1),
        prompt("x", 20, Logprobs=1),
    ]


def numbers(answer: Answer) -> tuple[str, list[tuple[int, float]]]:
    return answer.text, [(entry["id"], entry["logprob"]) for entry in answer.logprobs]


@pytest.mark.slow
def test_answers_of_every_kind_are_the_same_alone_in_a_crowd_and_from_the_cache(process: Worker) -> None:
    process.must_load(TINY_CHAT, *OPTIONS, "prompt_cache_size:0")
    alone = [numbers(stream(process.stub, request)) for request in asked()]
    assert json.loads(alone[3][0]).keys() == {"name", "age"}
    with concurrent.futures.ThreadPoolExecutor(10) as clients:
        crowd = list(clients.map(lambda request: numbers(stream(process.stub, request)), asked() * 2))
    assert crowd == alone * 2

    process.must_load(TINY_CHAT, *OPTIONS)
    for _ in range(2):
        again = [predict(process.stub, request) for request in asked()]
        process.rest()
        assert [numbers(answer) for answer in again] == alone
    hits = [int(answer.trailing["x-prompt-cache-tokens"]) for answer in again]
    assert hits[0] == len(process.stub.TokenizeString(asked()[0], timeout=30).tokens) - 1 > 16


@pytest.mark.slow
def test_a_load_says_how_it_holds_keys_and_values_and_its_options_win_over_the_workers(process: Worker) -> None:
    process.must_load(TINY_CHAT, "kv_group_size:32", "quantized_kv_start:20")
    details = process.info.Get(pb.InfoRequest(), timeout=60).details
    assert (details["kv_bits"], details["kv_group_size"], details["quantized_kv_start"]) == ("8", "32", "20")
    process.must_load(TINY_CHAT, "kv_bits:off", "cache_kv_bits:8", "kv_group_size:32")
    details = process.info.Get(pb.InfoRequest(), timeout=60).details
    assert (details["cache_kv_bits"], "kv_bits" in details) == ("8", False)


def test_a_load_that_cannot_is_refused_in_words(another_worker: Worker) -> None:
    refused = another_worker.load(TINY_CHAT, "kv_bits:4", "kv_group_size:64")
    assert not refused.success
    assert "kv_bits: model cannot hold" in refused.message and "head's size of 32" in refused.message
    for option, words in (("kv_bits:5", "must be 4 or 8"), ("kv_group_size:48", "must be 32 or 64")):
        assert words in another_worker.load(TINY_CHAT, option).message
