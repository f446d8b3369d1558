"""What the prompt cache does for clients, and says: how many tokens of a prompt it had, and why no more.

The models are random and their tokenizer writes one token a byte, so every number here is exact. Answers are kept
to lower-case letters where a later prompt replays them: only then does their text have their tokens again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.pb import backend_pb2 as pb
from tests import chosen
from tests.e2e.asking import Answer, finish, predict, prompt, running, stream
from tests.e2e.worker import Worker
from tests.tiers import slow

Model = Callable[..., Path]
Ask = Callable[[Worker, pb.PredictOptions], Answer]
LETTERS = "root ::= [a-z]+"
QUESTION = "Which rivers cross the city, and which of them are navigable all year? "
ANSWER = 12
# Of qwen3 as `random_model` writes it: 2 layers, keys and values, 2 heads of 16 in float32.
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4


@pytest.fixture
def empty(another_worker: Worker) -> Worker:
    """The worker without a model, so that the next load begins with an empty cache."""
    assert another_worker.stub.Free(pb.HealthMessage(), timeout=30).success
    return another_worker


def by_predict(worker: Worker, request: pb.PredictOptions) -> Answer:
    return predict(worker.stub, request)


def by_stream(worker: Worker, request: pb.PredictOptions) -> Answer:
    return stream(worker.stub, request)


def hit(answer: Answer) -> tuple[int, str]:
    """What the trailing metadata says of the cache."""
    return int(answer.trailing["x-prompt-cache-tokens"]), answer.trailing["x-prompt-cache-reason"]


def answer_kv() -> int:
    """Tokens of an answer that have KV: its last one was never fed, but by the batch that runs a step ahead."""
    return ANSWER if chosen.sampler == "device" else ANSWER - 1


def letters(text: str, tokens: int = ANSWER, **fields: Any) -> pb.PredictOptions:
    """A raw prompt, answered in letters to the last token."""
    return prompt(text, tokens, Grammar=LETTERS, IgnoreEOS=True, **fields)


def conversation(*texts: str, tokens: int = ANSWER, **fields: Any) -> pb.PredictOptions:
    """System, user, assistant, user and so on, answered in letters."""
    roles = ["system", *(("user", "assistant")[index % 2] for index in range(len(texts) - 1))]
    messages = [pb.Message(role=role, content=text) for role, text in zip(roles, texts, strict=True)]
    return pb.PredictOptions(
        Messages=messages, UseTokenizerTemplate=True, Tokens=tokens, Grammar=LETTERS, IgnoreEOS=True, **fields
    )


def length(worker: Worker, request: pb.PredictOptions) -> int:
    return len(worker.stub.TokenizeString(request, timeout=30).tokens)


def shared(worker: Worker, a: pb.PredictOptions, b: pb.PredictOptions) -> int:
    """Tokens that two prompts have in common at their beginning."""
    ids = [list(worker.stub.TokenizeString(request, timeout=30).tokens) for request in (a, b)]
    return next((i for i, (x, y) in enumerate(zip(*ids, strict=False)) if x != y), min(map(len, ids)))


def figures(worker: Worker) -> Mapping[str, float]:
    return worker.info.Get(pb.InfoRequest(), timeout=60).cache


@pytest.mark.parametrize("ask", [slow(by_predict), by_stream])
def test_every_kind_of_return_to_a_prompt_hits_as_far_as_it_can(empty: Worker, random_model: Model, ask: Ask) -> None:
    empty.must_load(random_model())
    first = ask(empty, letters(QUESTION))
    n = len(QUESTION)
    assert hit(first) == (0, "empty")
    # All but the last token, which has to run for its logits.
    assert hit(ask(empty, letters(QUESTION))) == (n - 1, "full")
    regenerated = ask(empty, letters(QUESTION, Temperature=1.0, Seed=5))
    assert regenerated.text != first.text
    assert hit(regenerated) == (n - 1, "full")
    next_turn = QUESTION + first.text + "\nAnd the bridges? "
    second = ask(empty, letters(next_turn))
    assert hit(second) == (n + answer_kv(), "extended")
    after = next_turn + second.text
    assert hit(ask(empty, letters(after + "\nThanks."))) == (len(next_turn) + answer_kv(), "extended")
    edited = QUESTION[:40] + "EDITED"
    assert hit(ask(empty, letters(edited))) == (40, "diverged at 40")
    branch = next_turn[:-10] + "# parks?"
    assert hit(ask(empty, letters(branch))) == (len(next_turn) - 10, f"diverged at {len(next_turn) - 10}")
    assert hit(ask(empty, letters("Something else."))) == (0, "diverged at 0")


def test_a_cached_answer_is_the_cold_one(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    request = letters(QUESTION, 24, Logprobs=1, TopLogprobs=3)
    cold, cached = (stream(empty.stub, request) for _ in range(2))
    assert hit(cached)[0] == len(QUESTION) - 1
    assert cached.last.prompt_tokens == cold.last.prompt_tokens == len(QUESTION)
    assert cached.last.logprobs == cold.last.logprobs


def test_an_edited_last_message_keeps_the_conversation_before_it(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    before = conversation("Be brief.", "Which rivers?", "The Spree.", "And the bridges?")
    after = conversation("Be brief.", "Which rivers?", "The Spree.", "Any tunnels?")
    predict(empty.stub, before)
    common = shared(empty, before, after)
    assert common > length(empty, conversation("Be brief.", "Which rivers?"))
    assert hit(predict(empty.stub, after)) == (common, f"diverged at {common}")


def test_a_read_only_request_reads_and_leaves_nothing(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    n = len(QUESTION)
    for _ in range(2):
        assert hit(predict(empty.stub, letters(QUESTION, PromptCacheRO=True))) == (0, "empty")
    assert empty.queue()["cached_kv_bytes"] == 0
    predict(empty.stub, letters(QUESTION))
    for _ in range(2):
        longer = letters(QUESTION + "Or lakes? ", PromptCacheRO=True)
        assert hit(predict(empty.stub, longer)) == (n, f"diverged at {n}")


@pytest.mark.slow
def test_without_prompt_cache_all_only_prompts_are_kept(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model(), "prompt_cache_all:false")
    answer = predict(empty.stub, letters(QUESTION)).text
    assert hit(predict(empty.stub, letters(QUESTION + answer + "More?"))) == (len(QUESTION) - 1, "extended")


@pytest.mark.parametrize("option", ["prompt_cache_size:0", slow("max_cache_entries:0"), slow("prompt_cache_bytes:0")])
def test_the_cache_turns_off(empty: Worker, random_model: Model, option: str) -> None:
    empty.must_load(random_model(), option)
    for _ in range(2):
        assert hit(predict(empty.stub, letters(QUESTION))) == (0, "off")
    assert empty.queue()["cached_kv_bytes"] == 0
    assert empty.queue()["cached_tokens"] == 0


def header(hash_: str) -> str:
    """What an agent client puts before its instructions, which begin on the same line."""
    return f"x-anthropic-billing: a=1;b={hash_};Be brief and kind, and use the tools. "


def test_an_agents_header_does_not_spoil_the_prefix(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    first, again = (conversation(header(hash_), QUESTION) for hash_ in ("0c1f", "9e77d"))
    plain = conversation(header("").partition(";b=;")[2], QUESTION)
    assert length(empty, first) == length(empty, plain)
    predict(empty.stub, first)
    assert hit(predict(empty.stub, again)) == (length(empty, first) - 1, "full")


@pytest.mark.slow
def test_an_option_leaves_the_agents_header_in(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model(), "strip_agent_header:false")
    first, again = (conversation(header(hash_), QUESTION) for hash_ in ("0c1f", "9e77d"))
    predict(empty.stub, first)
    until_hash = (
        len(header("0c1f").partition("0c1f")[0])
        + length(empty, conversation("", QUESTION))
        - len(conversation("", QUESTION).Messages[1].content)
    )
    common = shared(empty, first, again)
    assert common < until_hash
    assert hit(predict(empty.stub, again)) == (common, f"diverged at {common}")


def test_equal_prompts_at_once_are_prefilled_once(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    text = "".join(f"{index:04d}" for index in range(500))
    before = empty.queue()["prefilled_tokens"]
    with running(empty.stub, *[letters(text)] * 8, begun=False) as calls:
        answers = [finish(call) for call in calls]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].last.prompt_tokens == 2000
    assert 2000 - 1 <= empty.queue()["prefilled_tokens"] - before <= 1.2 * 2000


@pytest.mark.parametrize("family", ["qwen3", "qwen3_next", slow("mamba2"), slow("gemma3_text")])
def test_the_next_turn_hits_in_every_family(empty: Worker, random_model: Model, family: str) -> None:
    # An answer whose end is guessed has one token less in KV.
    empty.must_load(random_model(family), "speculation:off")
    system = "You know rivers, lakes and canals. " * 4
    first = conversation(system, QUESTION)
    n = length(empty, first)
    answer = predict(empty.stub, first).text
    replayed = conversation(system, QUESTION, answer, "And the bridges?")
    assert hit(predict(empty.stub, replayed)) == (n + answer_kv(), "extended")
    # What a host puts in place of the answer, such as a tool call, parts from it at once. A state is stored only
    # one token earlier, where the prefill ended.
    at = n if family in ("qwen3", "gemma3_text") else n - 1
    reason = f"diverged at {n}" if at == n else f"no-snapshot at {n}"
    other = conversation(system, QUESTION, "They are many.", "And the bridges?")
    assert hit(predict(empty.stub, other)) == (at, reason)


@pytest.mark.parametrize("family", [slow("qwen3_next"), slow("mamba2"), "gemma3_text"])
def test_an_edited_message_hits_in_every_family(empty: Worker, random_model: Model, family: str) -> None:
    empty.must_load(random_model(family))
    system = "You know rivers, lakes and canals. " * 4
    first = conversation(system, QUESTION)
    predict(empty.stub, first)
    # The texts part at their first letter, where a state is stored: a message's beginning.
    edited = conversation(system, "Any lakes?")
    common = shared(empty, first, edited)
    assert common > len(system)
    assert hit(predict(empty.stub, edited)) == (common, f"diverged at {common}")


@pytest.mark.slow
def test_a_replaced_model_finds_nothing(empty: Worker, random_model: Model) -> None:
    models = [random_model(seed=seed) for seed in (0, 1)]
    for model in (*models, models[0]):
        empty.must_load(model)
        assert hit(predict(empty.stub, letters(QUESTION))) == (0, "empty")
        assert hit(predict(empty.stub, letters(QUESTION))) == (len(QUESTION) - 1, "full")


def test_a_cancelled_request_leaves_what_is_proven(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    with running(empty.stub, letters(QUESTION, 4000)) as (call,):
        begun = "".join(next(call).message.decode() for _ in range(8))
    empty.wait_for_queue(lambda queue: queue["in_flight"] == 0 and queue["decoding"] == 0)
    n = len(QUESTION)
    # The first reply was read by `running`: the greedy answer has it before what was read here.
    whole = predict(empty.stub, letters(QUESTION, 1000, PromptCacheRO=True)).text
    assert begun in whole
    tokens, _ = hit(predict(empty.stub, letters(QUESTION + whole)))
    assert n + len(begun) <= tokens < n + len(whole)


def test_bytes_are_told_and_kept_within_the_limit(empty: Worker, random_model: Model) -> None:
    limit = 200 * TOKEN_BYTES
    empty.must_load(random_model(), f"prompt_cache_bytes:{limit}")
    predict(empty.stub, letters(QUESTION))
    used = (len(QUESTION) + answer_kv()) * TOKEN_BYTES
    empty.rest()
    status = empty.stub.Status(pb.HealthMessage(), timeout=60)
    assert status.memory.breakdown["cached_kv"] == used
    assert figures(empty)["nbytes"] == empty.queue()["cached_kv_bytes"] == used
    for index in range(6):
        predict(empty.stub, letters(f"{index}" + QUESTION))
        assert 0 < empty.queue()["cached_kv_bytes"] <= limit
    tokens, reason = hit(predict(empty.stub, letters(QUESTION)))
    assert tokens < len(QUESTION) - 1
    assert reason.startswith(("evicted", "diverged"))


def test_info_counts_the_reasons_of_short_hits(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    for text in (QUESTION, QUESTION, QUESTION[:30] + "###", QUESTION[:20] + "###"):
        predict(empty.stub, letters(text))
    told = figures(empty)
    reasons = {name.removeprefix("reasons."): count for name, count in told.items() if name.startswith("reasons.")}
    assert reasons == {"empty": 1, "full": 1, "diverged": 2}
    assert (told["fetches"], told["hits"]) == (4, 3)
    n = len(QUESTION)
    assert told["tokens_matched"] == n - 1 + 30 + 20 == empty.queue()["cached_tokens"]


def test_a_line_of_the_log_tells_of_each_request(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    predict(empty.stub, letters(QUESTION))
    seen = len(empty.log.lines)
    predict(empty.stub, letters(QUESTION, CorrelationId="turn-7"))
    line = empty.log.wait_for(r"request_ended request_id=turn-7 .*", 10, after=seen)[0]
    assert f"cached_tokens={len(QUESTION) - 1} cache_reason=full" in line
