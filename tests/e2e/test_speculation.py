"""Guessed tokens over the socket: no answer depends on them, and what was guessed is told."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, prompt, stream
from tests.e2e.worker import TINY_CHAT, Worker

CLIENTS = 8
MOST_ASKED = 12
LINES = "The cat sat on the mat. The dog ran to the river. A bird sang in the old tree. " * 6
TOLD = ("x-drafted-tokens", "x-accepted-tokens")
SCHEMA = '{"type": "object", "properties": {"capital": {"type": "string"}}, "required": ["capital"]}'


def asked(tokens: int) -> list[pb.PredictOptions]:
    """Answers that copy, that are drawn, that a grammar spells out, that have an end of their own."""
    shown = {"Logprobs": 1, "TopLogprobs": 3}
    return [
        prompt(LINES, tokens, IgnoreEOS=True, **shown),
        prompt(LINES, tokens, Temperature=0.9, Seed=5, IgnoreEOS=True, **shown),
        prompt(LINES + "And ", tokens, Penalty=1.2, Temperature=0.7, TopK=20, Seed=6, IgnoreEOS=True, **shown),
        chat("Tell me a short story.", tokens, **shown),
        chat("What is the capital of France?", tokens, Metadata={"json_schema": SCHEMA}, **shown),
    ]


def ask(worker: Worker, requests: list[pb.PredictOptions], *, streamed: bool, clients: int = 1) -> list[Answer]:
    one = stream if streamed else predict
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda request: one(worker.stub, request), requests))


def told(answers: list[Answer]) -> tuple[int, int]:
    """Tokens that were guessed, and those that were right, as trailing metadata has them."""
    guessed, right = (sum(int(answer.trailing.get(key, "0")) for answer in answers) for key in TOLD)
    return guessed, right


def same(ours: list[Answer], theirs: list[Answer]) -> None:
    """To the bit: Worker runs the reference BLAS."""
    assert [answer.details for answer in (*ours, *theirs)] == [""] * 2 * len(ours)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.text, one.reason, one.last.tokens) == (other.text, other.reason, other.last.tokens)
        assert one.last.logprobs == other.last.logprobs


def compare(worker: Worker, requests: list[pb.PredictOptions], *options: str) -> None:
    """Without guesses; then with them alone, alone again, at once as wholes and as streams."""
    worker.must_load(TINY_CHAT, "speculation:off", *options)
    plain = ask(worker, requests, streamed=True)
    assert not [key for answer in plain for key in TOLD if key in answer.trailing]
    queue = worker.queue()
    assert (queue["verify_passes"], queue["drafted_tokens"], queue["accepted_tokens"]) == (0, 0, 0)
    assert worker.info.Get(pb.InfoRequest(), timeout=60).details["speculation"] == "off"
    worker.must_load(TINY_CHAT, *options)
    crowd = requests * 2
    answers = [
        ask(worker, requests, streamed=True),
        ask(worker, requests, streamed=False),
        ask(worker, crowd, streamed=True, clients=CLIENTS),
        ask(worker, crowd, streamed=False, clients=CLIENTS),
    ]
    for some in answers:
        same(some, plain * (len(some) // len(plain)))
    guessed, right = told([answer for some in answers for answer in some])
    assert 0 < right <= guessed
    worker.rest()
    queue = worker.queue()
    assert (queue["drafted_tokens"], queue["accepted_tokens"]) == (guessed, right)
    assert sum(value for name, value in queue.items() if name.startswith("drafted_tokens.")) == guessed
    assert queue["verify_passes"] == queue["speculation.passes"] > 0
    generated = sum(answer.last.tokens for some in answers for answer in some)
    assert queue["speculation.plain_steps"] < generated - right


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_answers_alone_and_in_a_crowd_are_those_without_guesses(worker: Worker, sampler: str) -> None:
    compare(worker, asked(150), f"sampler:{sampler}")


def test_a_question_that_is_asked_again_is_guessed_and_answered_alike(worker: Worker) -> None:
    question = [asked(60)[0]]
    worker.must_load(TINY_CHAT, "speculation:off")
    plain = ask(worker, question, streamed=False)
    assert not plain[0].trailing.keys() & set(TOLD)
    assert worker.info.Get(pb.InfoRequest(), timeout=60).details["speculation"] == "off"
    worker.must_load(TINY_CHAT, "max_draft:12")
    assert (
        worker.info.Get(pb.InfoRequest(), timeout=60).details["speculation"] == "ngram, cache, grammar; up to 12 tokens"
    )
    right, asked_for = 0, 0
    # What pays is measured, on a machine that may be busy with something else.
    while not right and asked_for < MOST_ASKED:
        answers = ask(worker, question, streamed=asked_for % 2 == 0)
        same(answers, plain)
        right += told(answers)[1]
        asked_for += 1
    assert right > 0
    figures = worker.queue()
    assert 0 < figures["accepted_tokens"] <= figures["drafted_tokens"]
    assert figures["speculation.pass_tokens"] > figures["speculation.passes"] == figures["verify_passes"] > 0


@pytest.mark.slow
def test_a_model_whose_trial_refuses_says_why_and_guesses_nothing(
    worker: Worker, random_model: Callable[..., Path]
) -> None:
    worker.must_load(random_model("llama4"))
    details = worker.info.Get(pb.InfoRequest(), timeout=60).details
    assert details["speculation"] == "off: a layer's cache cannot go back"
    answers = ask(worker, [asked(8)[0]] * 2, streamed=True)
    assert not {*TOLD} & {key for answer in answers for key in answer.trailing}
    assert not worker.queue()["verify_passes"]


@pytest.mark.slow
def test_a_state_that_cannot_be_played_back_is_found_by_the_trial(
    worker: Worker, random_model: Callable[..., Path]
) -> None:
    worker.must_load(random_model("jamba"))
    details = worker.info.Get(pb.InfoRequest(), timeout=60).details
    assert details["speculation"].startswith("off: several tokens at a time give other logits")


def test_a_value_that_is_none_is_the_loads_error_and_the_model_stays(worker: Worker) -> None:
    for option in ("speculation:fast", "speculation:ngram,fast", "max_draft:0", "max_draft:33"):
        result = worker.load(TINY_CHAT, option)
        assert not result.success and result.message.startswith(f"Options[{option.partition(':')[0]}]: must be ")
    assert predict(worker.stub, prompt("Once upon a time", 2)).last.tokens == 2
