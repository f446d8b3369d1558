"""Metadata `priority`, from a client's side."""

import grpc
import pytest

from tests.e2e.asking import finish, predict, prompt, running, stream
from tests.e2e.worker import TINY_CHAT, Worker

STORY = "Once upon a time"


def long(index: int, **metadata: str) -> object:
    return prompt(STORY, 250 + index, IgnoreEOS=True, Temperature=1.0, Seed=index, Metadata=metadata)


@pytest.mark.slow
def test_a_higher_one_is_answered_while_lower_ones_wait_and_their_answers_do_not_change(worker: Worker) -> None:
    golden = [stream(worker.stub, long(index)) for index in range(2)]
    worker.must_load(TINY_CHAT, "max_rows:2")
    with running(worker.stub, long(0, priority="-1"), long(1, priority="-2")) as calls:
        answer = predict(worker.stub, prompt("The cat", 4, IgnoreEOS=True, Metadata={"priority": " +5 "}))
        assert answer.code is grpc.StatusCode.OK and answer.last.tokens == 4
        worker.wait_for_queue(lambda queue: queue["preemptions"] == 1)
        # Without a priority it is 0, which these are below.
        assert predict(worker.stub, prompt("The cat", 4)).code is grpc.StatusCode.OK
        assert worker.queue()["in_flight"] == 2
        # The first reply of each is read already.
        ended = [finish(call) for call in calls]
    for ours, theirs in zip(ended, golden, strict=True):
        assert ours.code is grpc.StatusCode.OK and ours.last.tokens == theirs.last.tokens
        assert theirs.text.endswith(ours.text) and len(theirs.text) - len(ours.text) < 20
    line = worker.log.wait_for(r"preempted request_id=\S+ tokens=\d+ displaced_by=(\S+)", 10)
    assert line[1] == answer.trailing["x-request-id"]
    assert worker.log.wait_for(rf"request_ended request_id={line[1]} method=Predict priority=5 ", 10)


@pytest.mark.parametrize("value", ["11", "-11", "1.5", "high", "1e1", "\u0665", "9" * 400])
def test_what_is_no_priority_is_refused_in_words(worker: Worker, value: str) -> None:
    answer = predict(worker.stub, prompt(STORY, 4, Metadata={"priority": value}))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "Metadata[priority]: must be a whole number in [-10, 10]")


def test_an_empty_priority_is_none(worker: Worker) -> None:
    assert predict(worker.stub, prompt(STORY, 4, Metadata={"priority": ""})).last.tokens == 4
