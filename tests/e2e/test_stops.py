"""Stop strings and text: exact whatever the token boundaries, characters whole."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import predict, prompt, stream
from tests.e2e.worker import Worker

BOTH_BATCHES = True
STORY = "Once upon a time"


def test_a_stop_string_ends_the_answer_wherever_tokens_part(worker: Worker) -> None:
    """Every window of the answer, cut at every length, is a stop string once."""
    whole = stream(worker.stub, prompt(STORY, 20)).text
    assert len(whole) > 30
    for start in range(0, 24, 3):
        for length in (1, 2, 5, 11):
            stop = whole[start : start + length]
            answer = stream(worker.stub, prompt(STORY, 20, StopPrompts=["never said", stop]))
            assert answer.text == whole[: whole.index(stop)]
            assert answer.reason == "stop-string"


def test_text_held_for_a_stop_string_is_released_when_it_cannot_become_one(worker: Worker) -> None:
    """Prefixes of the answer's text that go on otherwise are no stop strings."""
    whole = stream(worker.stub, prompt(STORY, 12)).text
    stops = [whole[start : start + 6] + "\x00" for start in range(len(whole))]
    answer = stream(worker.stub, prompt(STORY, 12, StopPrompts=stops[:64]))
    assert (answer.text, answer.reason) == (whole, "length")


def test_an_empty_stop_string_is_ignored(worker: Worker) -> None:
    """It is in every text."""
    expected = predict(worker.stub, prompt(STORY, 8))
    answer = predict(worker.stub, prompt(STORY, 8, StopPrompts=[""]))
    assert (answer.text, answer.reason) == (expected.text, "length")


@pytest.mark.parametrize("stops", [["x" * (1 << 20)], [f"stop {n}" for n in range(65)], ["x" * (16 << 10) + "y"]])
def test_stop_strings_are_bounded_in_number_and_length(worker: Worker, stops: list[str]) -> None:
    """More than 64, or longer than 16 KiB."""
    answer = stream(worker.stub, prompt(STORY, 8, StopPrompts=stops))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "StopPrompts")


@pytest.mark.slow
def test_bytes_that_are_no_text_never_reach_the_client(worker: Worker, random_model: Callable[..., Path]) -> None:
    """A random byte-level model says anything; what is sent is UTF-8 without U+FFFD."""
    worker.must_load(random_model())
    bad_bytes = 0
    for seed in range(6):
        request = prompt("na\u00efve \u2603 \U0001f600", 60, Temperature=1.5, Seed=seed, Logprobs=1, IgnoreEOS=True)
        answer = stream(worker.stub, request)
        for reply in answer.replies:
            assert "\ufffd" not in reply.message.decode("utf-8", "strict")
        said = b"".join(bytes(entry["bytes"]) for entry in answer.logprobs)
        bad_bytes += said.decode("utf-8", "replace").count("\ufffd")
        assert predict(worker.stub, request).text == answer.text
    assert bad_bytes > 20


def test_a_character_of_several_tokens_is_sent_whole(worker: Worker, random_model: Callable[..., Path]) -> None:
    worker.must_load(random_model())
    # The model is made to say the bytes of one snowman after another: each is likely only after the one before.
    snowman = "\u2603".encode()
    bias = "{" + ",".join(f'"{byte}":50' for byte in snowman) + "}"
    request = prompt("x", 60, Temperature=1.0, Seed=1, LogitBias=bias, Logprobs=1)
    answer = stream(worker.stub, request)
    said = b"".join(bytes(entry["bytes"]) for entry in answer.logprobs)
    assert set(said) == set(snowman)
    assert answer.text == said.decode("utf-8", "ignore")
    assert answer.text
    assert worker.stub.Detokenize(pb.DetokenizeRequest(tokens=list(snowman))).content == "\u2603"
