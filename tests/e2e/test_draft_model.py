"""A draft model over the socket: which is loaded, that no answer depends on it, and what is told of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt, stream
from tests.e2e.worker import Worker
from tests.models import write_deeper, write_model

MOST_ASKED = 12
SHOWN = {"Logprobs": 1, "TopLogprobs": 3, "IgnoreEOS": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of 21 layers, and one of its first layer that says the same."""
    folder = tmp_path_factory.mktemp("models")
    write_deeper(folder / "large", write_model(folder / "small", layers=1), layers=20)
    write_model(folder / "other", layers=1, vocab=280)
    return folder


def asked(tokens: int, **fields: int) -> list[pb.PredictOptions]:
    return [
        prompt("The cat sat", tokens, **SHOWN, **fields),
        prompt("A dog ran", tokens, Temperature=0.9, Seed=5, TopK=20, **SHOWN, **fields),
    ]


def ask(worker: Worker, requests: list[pb.PredictOptions], *, together: bool = False) -> list[Answer]:
    if together:
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda request: stream(worker.stub, request), requests))
    return [predict(worker.stub, request) for request in requests]


def same(ours: list[Answer], theirs: list[Answer]) -> None:
    assert [answer.details for answer in (*ours, *theirs)] == [""] * 2 * len(ours)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.text, one.reason, one.last.logprobs) == (other.text, other.reason, other.last.logprobs)


def details(worker: Worker) -> dict[str, str]:
    return dict(worker.info.Get(pb.InfoRequest(), timeout=60).details)


@pytest.mark.slow
def test_a_draft_model_guesses_what_a_larger_one_says_and_no_answer_is_another(worker: Worker, models: Path) -> None:
    worker.must_load("large", "speculation:off", ModelPath=str(models), DraftModel="small")
    assert "draft_model" not in details(worker)
    plain = ask(worker, asked(70))
    assert worker.queue()["drafted_tokens"] == 0
    worker.must_load("large", "speculation:draft", ModelPath=str(models), DraftModel="small")
    told = details(worker)
    assert told["speculation"] == "draft; up to 16 tokens"
    assert told["draft_model"].startswith(f"{models}/small: ")
    right, turns = 0, 0
    # What pays is measured, on a machine that may be busy with something else.
    while right < 60 and turns < MOST_ASKED:
        answers = ask(worker, asked(70), together=turns % 2 == 1)
        same(answers, plain)
        right += sum(int(answer.trailing["x-accepted-tokens"]) for answer in answers)
        turns += 1
    worker.rest()
    queue = worker.queue()
    assert queue["accepted_tokens.draft"] == queue["accepted_tokens"] == right >= 60
    assert queue["speculation.drafting_rounds"] > 0 and queue["speculation.draft_read_tokens"] > 0
    # One guess of each row a pass.
    before, drafted, turns = queue, 0.0, 0
    while not drafted and turns < MOST_ASKED:
        same(ask(worker, asked(70, NDraft=1)), plain)
        worker.rest()
        queue = worker.queue()
        drafted, passes = (queue[name] - before[name] for name in ("drafted_tokens", "verify_passes"))
        assert drafted == passes
        turns += 1
    assert drafted
    predict(worker.stub, prompt("a", 4, NDraft=-1)).refused(grpc.StatusCode.INVALID_ARGUMENT, "NDraft")


def turns(worker: Worker, count: int, metadata: dict[str, str]) -> list[Answer]:
    """A conversation in raw text, each turn the one before, its answer and a little more."""
    text, told = "There once was a cat that sat on a mat. " * 8, list[Answer]()
    for turn in range(count):
        settings = {"Temperature": 0.9, "Seed": turn} if turn % 2 else {}
        told.append(predict(worker.stub, prompt(text, 40, **SHOWN, **settings, Metadata=metadata)))
        text += told[-1].text + " And then?"
    return told


@pytest.mark.slow
def test_at_later_turns_it_reads_what_is_new_for_its_own_tenant_alone_until_that_is_cleared(
    worker: Worker, models: Path
) -> None:
    worker.must_load("large", "speculation:off", ModelPath=str(models), DraftModel="small")
    plain = turns(worker, 3, {})
    assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
    worker.must_load("large", "speculation:draft", ModelPath=str(models), DraftModel="small")
    assert details(worker)["draft_model"].endswith("% of the prompt cache at most")

    def tell() -> tuple[float, float]:
        worker.rest()
        queue = worker.queue()
        return queue["speculation.draft_read_tokens"], queue["speculation.draft_cached_tokens"]

    # What pays is measured, on a machine that may be busy with something else.
    for _ in range(MOST_ASKED):
        same(turns(worker, 3, {"cache_salt": "ours"}), plain)
        read, kept = tell()
        if kept > read > 0:
            break
    assert kept > read > 0
    figures = dict(worker.info.Get(pb.InfoRequest(), timeout=60).cache)
    queue = worker.queue()
    assert 0 < figures["draft.nbytes"] == queue["cached_draft_kv_bytes"] < queue["cached_kv_bytes"]
    # Somebody else's is read anew, where it is read at all.
    same(turns(worker, 1, {"cache_salt": "theirs"}), plain[:1])
    assert tell()[1] == kept
    for metadata in ({"cache_salt": "ours"}, {"cache_salt": "theirs"}):
        assert worker.prompt_cache.Clear(pb.ClearPromptCacheRequest(metadata=metadata), timeout=60).success
    worker.rest()
    assert worker.queue()["cached_draft_kv_bytes"] == 0
    same(turns(worker, 1, {"cache_salt": "ours"}), plain[:1])
    assert tell()[1] == kept


def test_one_of_other_tokens_or_that_is_not_there_fails_the_load_and_the_model_stays(
    worker: Worker, models: Path
) -> None:
    worker.must_load("large", ModelPath=str(models))
    before = ask(worker, asked(4))
    refused = worker.load("large", ModelPath=str(models), DraftModel="other")
    assert not refused.success
    assert refused.message.startswith(f"DraftModel: {models}/other: has another tokenizer than the model: ")
    missing = worker.load("large", ModelPath=str(models), DraftModel="/none")
    assert not missing.success and missing.message == "DraftModel: model path does not exist: /none"
    same(ask(worker, asked(4)), before)
    none = worker.load("large", "speculation:draft", ModelPath=str(models))
    assert not none.success and "needs a DraftModel" in none.message
