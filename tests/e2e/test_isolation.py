"""What requests may take from each other, by tenant and mode: over the real worker, by counts and by bits."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt, running, stream
from tests.e2e.worker import Worker, wait_until
from tests.tiers import slow

Model = Callable[..., Path]
MODES = ("performance", "balanced", "strict")
QUICK = {("performance", "answered"), ("balanced", "cancelled"), ("strict", "failed")}
SECRET = "The vault opens with seven turns to the left, then three to the right, and the word is marigold. " * 3
QUESTION = SECRET + "How does it open? "
ALICE, BOB = {"cache_salt": "alice's"}, {"cache_salt": "bob's"}


def load(worker: Worker, model: Path, mode: str, *options: str) -> Worker:
    """A fresh load: its cache is empty."""
    assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
    worker.must_load(model, f"isolation:{mode}", *options)
    return worker


def asked(text: str, metadata: dict[str, str] | None = None, tokens: int = 8, **fields: Any) -> pb.PredictOptions:
    return prompt(text, tokens, Logprobs=1, TopLogprobs=3, IgnoreEOS=True, Metadata=metadata or {}, **fields)


def bits(answer: Answer) -> tuple[str, bytes]:
    """All that an answer says of its logits."""
    return answer.text, answer.last.logprobs


def cached(answer: Answer) -> int:
    return int(answer.trailing["x-prompt-cache-tokens"])


@pytest.mark.parametrize("mode", [slow("performance"), "balanced"])
def test_no_tenant_hits_what_another_has_cached_in_either_direction(
    another_worker: Worker, random_model: Model, mode: str
) -> None:
    worker = load(another_worker, random_model(), mode)
    for whose in (ALICE, BOB, {}):
        first = predict(worker.stub, asked(QUESTION, whose))
        # What others have is not even named as a reason.
        assert (cached(first), first.trailing["x-prompt-cache-reason"]) == (0, "empty")
    for whose in (ALICE, BOB, {}):
        assert cached(predict(worker.stub, asked(QUESTION, whose))) == len(QUESTION) - 1


def test_a_prompt_that_another_tenant_is_prefilling_is_not_shared(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "performance", "prefill_chunk:16")
    long = SECRET * 6
    asking = [asked(long, whose, 2) for whose in (ALICE, BOB) for _ in range(3)]
    with ThreadPoolExecutor(len(asking)) as pool:
        answers = list(pool.map(lambda request: predict(worker.stub, request), asking))
    assert len({bits(answer) for answer in answers}) == 1
    # At most two of each three are served by their tenant's first.
    prefilled = worker.queue()["prefilled_tokens"]
    assert prefilled >= 2 * (len(long) - 1)


@pytest.mark.parametrize(
    ("mode", "between"),
    [
        pytest.param(mode, between, marks=() if (mode, between) in QUICK else pytest.mark.slow)
        for mode in MODES
        for between in ("answered", "cancelled", "failed", "freed")
    ],
)
def test_an_answer_is_what_a_fresh_worker_says_whatever_came_before(
    another_worker: Worker, random_model: Model, mode: str, between: str
) -> None:
    model = random_model()
    question = asked("How does the vault open? ", BOB, Temperature=1.0, Seed=3)
    fresh = bits(predict(load(another_worker, model, mode).stub, question))
    worker = load(another_worker, model, mode)
    made = worker.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt=SECRET, metadata=ALICE), timeout=60)
    assert made.tokens == len(SECRET) // 128 * 128 if mode == "strict" else len(SECRET)
    before(worker, model, mode, between)
    assert bits(predict(worker.stub, question)) == fresh
    assert bits(stream(worker.stub, question)) == fresh


def before(worker: Worker, model: Path, mode: str, between: str) -> None:
    """Alice's request about her secret, and how it ended."""
    if between == "cancelled":
        with running(worker.stub, asked(QUESTION, ALICE, 200)):
            pass
    elif between == "failed":
        refused = predict(worker.stub, asked(QUESTION, ALICE, Grammar="root ::= ((("))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert predict(worker.stub, asked(QUESTION, ALICE)).text
    if between == "freed":
        load(worker, model, mode)


def test_the_same_request_has_the_same_bits_in_strict_with_and_without_a_name(
    another_worker: Worker, random_model: Model
) -> None:
    worker = load(another_worker, random_model(), "strict")
    request = asked(QUESTION, ALICE, Temperature=0.8, Seed=11)
    without = bits(predict(worker.stub, request))
    cold = worker.queue()["prefilled_tokens"]
    assert bits(predict(worker.stub, request)) == without
    assert worker.queue()["prefilled_tokens"] == 2 * cold  # nothing was kept
    worker.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt=SECRET, metadata=ALICE), timeout=60)
    created = worker.queue()["prefilled_tokens"]
    with_name = predict(worker.stub, request)
    assert bits(with_name) == without
    assert worker.queue()["prefilled_tokens"] - created == cold - len(SECRET) // 128 * 128
    # A name of Alice's is none of Bob's.
    used = worker.queue()["prefilled_tokens"]
    assert bits(predict(worker.stub, asked(QUESTION, BOB, Temperature=0.8, Seed=11))) == without
    assert worker.queue()["prefilled_tokens"] - used == cold


def test_strict_tells_no_client_anything_of_the_cache(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "strict")
    worker.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt=SECRET, metadata=ALICE), timeout=60)
    for whose in (ALICE, BOB):
        trailing = predict(worker.stub, asked(QUESTION, whose)).trailing
        assert trailing["x-finish-reason"] and not [key for key in trailing if "cache" in key]
    info = worker.info.Get(pb.InfoRequest(), timeout=60)
    assert not info.cache
    assert (info.mode, info.details["isolation"]) == ("serial", "strict")
    assert "nothing" in info.details["isolation_keeps"]
    stats = worker.prompt_cache.Stats(pb.PromptCacheStatsRequest(), timeout=60)
    assert (dict(stats.figures), stats.isolation) == ({}, "strict")


def test_strict_runs_one_request_at_a_time_and_leaves_no_memory(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "strict")

    def memory() -> tuple[float, ...]:
        breakdown = worker.stub.Status(pb.HealthMessage(), timeout=60).memory.breakdown
        return tuple(breakdown[name] for name in ("mlx_active", "buffer_pool", "live_kv", "cached_kv"))

    predict(worker.stub, asked("warm"))
    # A client has its end before its row has left.
    wait_until(lambda: memory()[1:] == (0, 0, 0), "the first request has left nothing")
    before = memory()
    for text, tokens in (("short", 3), (QUESTION, 8), (SECRET * 4, 40)):
        predict(worker.stub, asked(text, ALICE, tokens))
        wait_until(lambda: memory() == before, f"memory is back at {before}")
    seen: set[float] = set()
    until = time.monotonic() + 60
    while not seen - {0.0} and time.monotonic() < until:  # they may be over before anybody looks
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(predict, worker.stub, asked(QUESTION, ALICE, 30)) for _ in range(4)]
            while not all(answer.done() for answer in answers):
                queue = worker.queue()
                seen.add(queue["decoding"] + queue["prefilling"])
        assert len({bits(answer.result()) for answer in answers}) == 1
    assert max(seen) == 1
    wait_until(lambda: memory() == before, f"memory is back at {before}")


def test_a_prefix_named_without_a_tenant_serves_everybody_but_only_in_performance(
    another_worker: Worker, random_model: Model
) -> None:
    for mode, length in (("performance", len(SECRET)), ("balanced", 0)):
        worker = load(another_worker, random_model(), mode)
        worker.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt=SECRET), timeout=60)
        # What else has no tenant is not everybody's.
        predict(worker.stub, asked(QUESTION))
        answer = predict(worker.stub, asked(QUESTION, ALICE))
        assert (cached(answer), answer.trailing["x-prompt-cache-reason"]) == (length, "named" if length else "empty")
        assert cached(predict(worker.stub, asked(QUESTION, ALICE))) == len(QUESTION) - 1


def test_what_a_conversation_has_left_goes_when_it_is_idle(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "performance", "conversation_idle_s:0.5")
    talk = {"conversation_id": "7"}
    hits: list[int] = []
    while len(hits) < 20 and not any(hits):  # on a busy machine it may be forgotten before it is asked for
        first = predict(worker.stub, asked(QUESTION, talk))
        # Another request needs no id to hit it.
        hits.append(cached(predict(worker.stub, asked(QUESTION + first.text, PromptCacheRO=True))))
    assert hits[-1] >= len(QUESTION) - 1
    wait_until(lambda: worker.queue()["cached_kv_bytes"] == 0, "the conversation is forgotten")
    assert cached(predict(worker.stub, asked(QUESTION, talk))) == 0


@pytest.mark.slow
def test_the_idlest_conversation_goes_when_there_are_too_many(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "performance", "max_conversations:2")
    texts = [f"{index}: {QUESTION}" for index in range(3)]
    for index, text in enumerate(texts):
        predict(worker.stub, asked(text, {"conversation_id": str(index)}))
    left = [cached(predict(worker.stub, asked(text, PromptCacheRO=True))) for text in texts]
    assert [bool(n) for n in left] == [False, True, True]


@pytest.mark.parametrize(("key", "size"), [("cache_salt", 1025), ("conversation_id", 257)])
def test_ids_that_are_too_long_are_refused(another_worker: Worker, random_model: Model, key: str, size: int) -> None:
    worker = load(another_worker, random_model(), "performance")
    predict(worker.stub, asked("hello", {key: "x" * size})).refused(grpc.StatusCode.INVALID_ARGUMENT, key)


@pytest.mark.slow
def test_no_reason_changes_with_what_another_tenant_has(another_worker: Worker, random_model: Model) -> None:
    worker = load(another_worker, random_model(), "performance")
    predict(worker.stub, asked("Mine is another beginning. ", ALICE))
    probe = asked(QUESTION, ALICE, PromptCacheRO=True)
    before = predict(worker.stub, probe).trailing["x-prompt-cache-reason"]
    predict(worker.stub, asked(QUESTION, BOB))
    assert predict(worker.stub, probe).trailing["x-prompt-cache-reason"] == before
