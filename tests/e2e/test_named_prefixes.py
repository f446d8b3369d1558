"""Prefixes that stay in the prompt cache under a name: the service, and `PromptCachePath`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, predict, prompt, running
from tests.e2e.test_prompt_cache import conversation, hit, letters
from tests.e2e.worker import TINY_CHAT, Worker
from tests.tiers import slow

Model = Callable[..., Path]
RULES = "You are a careful assistant of the city's library. Answer in one sentence, and name your source. "


@pytest.fixture
def empty(another_worker: Worker) -> Worker:
    assert another_worker.stub.Free(pb.HealthMessage(), timeout=30).success
    return another_worker


def create(worker: Worker, name: str = "rules", **fields: Any) -> pb.NamedPrefix:
    return worker.prompt_cache.Create(pb.CreatePrefixRequest(name=name, **fields), timeout=60)


def names(worker: Worker, **metadata: str) -> dict[str, pb.NamedPrefix]:
    found = worker.prompt_cache.List(pb.ListPrefixesRequest(metadata=metadata), timeout=60).prefixes
    return {prefix.name: prefix for prefix in found}


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_a_named_text_is_prefilled_once_and_hits(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    made = create(empty, prompt=RULES)
    assert (made.tokens, made.hits, made.where, made.idle_seconds) == (len(RULES), 0, "memory", -1)
    assert made.bytes == empty.queue()["cached_kv_bytes"]
    assert hit(predict(empty.stub, letters(RULES + "When does it open? "))) == (len(RULES), "extended")
    answer = predict(empty.stub, letters(RULES + "Where is it? "))
    assert hit(answer)[0] >= len(RULES)
    listed = names(empty)["rules"]
    assert listed.hits == 2 and 0 <= listed.idle_seconds <= listed.age_seconds
    again = create(empty, prompt=RULES)
    assert (again.tokens, again.hits) == (len(RULES), 2)


def test_named_messages_are_what_chats_that_go_on_from_them_begin_with(empty: Worker) -> None:
    empty.must_load(TINY_CHAT)
    system = pb.Message(role="system", content=RULES)
    made = create(empty, messages=[system])
    for question in ("When does it open?", "1 or 2 floors?"):
        chat = pb.PredictOptions(
            Messages=[system, pb.Message(role="user", content=question)], UseTokenizerTemplate=True, Tokens=4
        )
        whole = len(empty.stub.TokenizeString(chat, timeout=30).tokens)
        assert whole - 20 < made.tokens < whole
        assert int(predict(empty.stub, chat).trailing["x-prompt-cache-tokens"]) >= made.tokens
    assert names(empty)["rules"].hits == 2


@pytest.mark.parametrize("family", [slow("qwen3"), "qwen3_next", slow("gemma3_text")])
def test_a_name_survives_what_would_evict_it(empty: Worker, random_model: Model, family: str) -> None:
    empty.must_load(random_model(family), "prompt_cache_bytes:400KiB")
    made = create(empty, prompt=RULES).tokens
    for index in range(12):
        predict(empty.stub, prompt(f"{index} " + "something else entirely, " * 8, 4))
    assert made == len(RULES)
    assert hit(predict(empty.stub, letters(RULES + "Where is it? ")))[0] == len(RULES)
    assert empty.prompt_cache.Delete(pb.DeletePrefixRequest(name="rules"), timeout=60).success
    assert not names(empty)


def test_names_are_each_tenants_own(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    create(empty, prompt=RULES, metadata={"cache_salt": "a"})
    create(empty, prompt=RULES[:40], metadata={"cache_salt": "b"})
    assert not names(empty)
    assert names(empty, cache_salt="a")["rules"].tokens == len(RULES)
    assert names(empty, cache_salt="b")["rules"].tokens == 40
    gone = empty.prompt_cache.Delete(pb.DeletePrefixRequest(name="rules", metadata={"cache_salt": "a"}), timeout=60)
    assert gone.success
    again = empty.prompt_cache.Delete(pb.DeletePrefixRequest(name="rules", metadata={"cache_salt": "a"}), timeout=60)
    assert not again.success and "no prefix" in again.message
    assert names(empty, cache_salt="b")


def test_clear_drops_a_tenants_state_or_everything(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    salts = ({}, {"cache_salt": "a"})
    for salt in salts:
        create(empty, prompt=RULES, metadata=salt)
    clear = empty.prompt_cache.Clear
    assert clear(pb.ClearPromptCacheRequest(metadata={"cache_salt": "a"}), timeout=60).success
    assert (len(names(empty)), len(names(empty, cache_salt="a"))) == (1, 0)
    assert empty.queue()["cached_kv_bytes"] > 0
    assert clear(pb.ClearPromptCacheRequest(everything=True), timeout=60).success
    assert (len(names(empty)), empty.queue()["cached_kv_bytes"]) == (0, 0)


@pytest.mark.slow
def test_stats_have_the_rates(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    for _ in range(4):
        predict(empty.stub, letters(RULES))
    stats = empty.prompt_cache.Stats(pb.PromptCacheStatsRequest(), timeout=60)
    assert stats.hit_rate == 0.75
    assert stats.token_hit_rate == pytest.approx(3 * (len(RULES) - 1) / (4 * len(RULES)))
    assert (stats.isolation, stats.figures["fetches"]) == ("performance", 4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "../x", "prompt": "a"}, "name"),
        ({"name": "x"}, "prompt is empty"),
        ({"name": "x", "prompt": "a", "metadata": {"cache_salt": "s" * 1025}}, "cache_salt"),
        ({"name": "x", "prompt": "word " * 4000}, "context"),
        ({"name": "x", "prompt": "a", "tools": "{"}, "Tools"),
    ],
)
def test_a_broken_request_is_refused_in_words(
    empty: Worker, random_model: Model, fields: dict[str, Any], words: str
) -> None:
    empty.must_load(random_model(), "context_size:4096")
    code, details = refusal(lambda: create(empty, **fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and words in details
    assert not names(empty)


def test_without_a_model_there_is_nothing_to_name(empty: Worker) -> None:
    for call in (
        lambda: create(empty, prompt="a"),
        lambda: empty.prompt_cache.List(pb.ListPrefixesRequest(), timeout=60),
        lambda: empty.prompt_cache.Clear(pb.ClearPromptCacheRequest(), timeout=60),
        lambda: empty.prompt_cache.Stats(pb.PromptCacheStatsRequest(), timeout=60),
    ):
        assert refusal(call)[0] is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.slow
def test_a_name_for_which_there_is_no_room_is_refused_and_leaves_nothing_held(
    empty: Worker, random_model: Model
) -> None:
    empty.must_load(random_model(), "prompt_cache_bytes:60KiB")
    code, details = refusal(lambda: create(empty, prompt=RULES))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "no room" in details
    assert not names(empty)
    assert predict(empty.stub, letters(RULES)).text


@pytest.mark.slow
def test_the_hosts_path_names_what_a_request_leaves(empty: Worker, random_model: Model) -> None:
    model = random_model()
    empty.must_load(model)
    path = {"PromptCachePath": "chat/alice"}
    first = predict(empty.stub, letters(RULES, **path))
    kept = names(empty)["chat/alice"].tokens
    assert kept >= len(RULES)
    turn = RULES + first.text + " And then? "
    second = predict(empty.stub, letters(turn, PromptCacheRO=True, **path))
    assert hit(second)[0] == kept
    assert names(empty)["chat/alice"].tokens == kept  # read only
    predict(empty.stub, letters(turn, **path))
    assert names(empty)["chat/alice"].tokens > kept
    for outside in ("/etc/passwd", "../x"):
        predict(empty.stub, letters(RULES, PromptCachePath=outside)).refused(
            grpc.StatusCode.INVALID_ARGUMENT, "PromptCachePath"
        )


@pytest.mark.slow
def test_a_chat_that_ends_with_a_user_is_named_up_to_what_an_answer_begins_with(
    empty: Worker, random_model: Model
) -> None:
    empty.must_load(random_model())
    messages = [pb.Message(role="system", content="Be brief."), pb.Message(role="user", content=RULES)]
    made = create(empty, messages=messages)
    asked = conversation("Be brief.", RULES)
    # All of the prompt is named, and its last token has to run.
    assert hit(predict(empty.stub, asked))[0] == made.tokens - 1


def test_what_is_cut_short_takes_no_name_and_no_room_leaves_the_old_one(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model(), "prompt_cache_bytes:300KiB", "prefill_chunk:16")
    made = create(empty, prompt=RULES).tokens
    for seconds in (0.02, 0.05):
        with pytest.raises(grpc.RpcError):
            empty.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt="other " * 600), timeout=seconds)
    with running(empty.stub, letters(RULES + "And?", tokens=3000, PromptCachePath="rules")):
        pass
    code, _ = refusal(lambda: create(empty, prompt="much " * 200))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert names(empty)["rules"].tokens == made
    assert hit(predict(empty.stub, letters(RULES + "Where is it? ")))[0] == made


def test_what_runs_while_the_cache_is_cleared_stores_nothing_of_before(empty: Worker, random_model: Model) -> None:
    empty.must_load(random_model())
    predict(empty.stub, letters(RULES))
    with running(empty.stub, letters(RULES, tokens=200)) as (call,):
        empty.prompt_cache.Clear(pb.ClearPromptCacheRequest(), timeout=60)
        finish(call)
    assert hit(predict(empty.stub, letters(RULES))) == (0, "empty")
