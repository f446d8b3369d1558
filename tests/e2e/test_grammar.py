"""Structured output over the socket: every dialect, the host's own grammars, and grammars beside everything else."""

import concurrent.futures
import json
import re
from typing import Any

import grpc
import jsonschema
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, prompt, stream
from tests.e2e.chatting import CAPITAL, PERSON, THINKING, TOOLS, ask, weather
from tests.e2e.worker import Worker
from tests.grammar import host_grammars
from tests.grammar.json_prefix import is_json_prefix
from tests.tiers import slow

ASK_JSON = "Give me a JSON object with name and age."
NO_SPACE_PERSON = {**PERSON, "x-guidance": {"whitespace_flexible": False}}
SCHEMA = {"json_schema": json.dumps(NO_SPACE_PERSON)}
DIGITS = r'root ::= [0-9] [0-9] [0-9] "-" [0-9] [0-9]'
PET = {
    "type": "object",
    "properties": {
        "age": {"type": "integer"},
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["age", "name", "tags", "kind"],
    "additionalProperties": False,
}
CALLS = {"get_weather": "city", "answer": "message"}


def is_call(value: object) -> bool:
    """One call in the shape of the host's tool grammar."""
    assert isinstance(value, dict)
    assert list(value) == ["arguments", "name"]
    assert list(value["arguments"]) == [CALLS[value["name"]]]
    return isinstance(value["arguments"][CALLS[value["name"]]], str)


def holds(name: str, text: str) -> None:
    """The whole text is what the host's grammar of this name means."""
    value = json.loads(text, strict=False)  # its strings may hold raw control characters
    if name == "JSON_OBJECT":
        assert isinstance(value, dict)
    elif name == "JSON_SCHEMA":
        jsonschema.validate(value, PET)
    else:
        assert all(is_call(item) for item in (value if isinstance(value, list) else [value]))


# GBNF as the host sends it


@pytest.mark.parametrize("name", [slow("JSON_OBJECT"), slow("JSON_SCHEMA"), "TOOLS", slow("PARALLEL_TOOLS")])
def test_the_hosts_grammars_hold_however_the_answer_is_drawn(worker: Worker, name: str) -> None:
    grammar = getattr(host_grammars, name)
    requests = [chat(ASK_JSON, 150, Grammar=grammar, Seed=seed, Temperature=0.9, TopP=0.9) for seed in range(11)]
    requests.append(chat(ASK_JSON, 150, Grammar=grammar))
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda request: stream(worker.stub, request), requests))
    finished = [answer for answer in answers if answer.reason == "stop"]
    assert finished
    for answer in finished:
        holds(name, answer.text)
    for answer in answers:
        assert answer.reason in ("stop", "length"), answer.details
        # A raw line break in a string is the grammar's own looseness.
        assert is_json_prefix(re.sub(r"[\x00-\x1f]", " ", answer.text)), answer.text


def test_the_hosts_mixed_grammar_lets_words_and_calls_pass(worker: Worker) -> None:
    turn = ask(worker, chat("Hello!", 60, Grammar=host_grammars.MIXED_TEXT))
    assert turn.message == ask(worker, chat("Hello!", 60)).message


def test_tools_with_a_grammar_send_text_in_message_and_calls_in_deltas(worker: Worker) -> None:
    """Rule 3's exception: with a grammar the host reads `message`, tools or not."""
    bare = ask(worker, weather(Grammar=host_grammars.TOOLS))
    assert bare.message == bare.content
    assert not bare.calls
    holds("TOOLS", bare.message)
    tagged = ask(worker, weather(Grammar=host_grammars.TAGGED))
    assert tagged.message == ""
    assert [call.name for call in tagged.calls] in (["get_weather"], ["answer"])
    assert list(json.loads(tagged.calls[0].arguments)) == [CALLS[tagged.calls[0].name]]


def test_gbnf_holds_a_raw_prompt_to_its_shape(worker: Worker) -> None:
    for seed in range(8):
        answer = stream(worker.stub, prompt("Once", 40, Grammar=DIGITS, Temperature=2.0, Seed=seed))
        assert re.fullmatch(r"\d{3}-\d{2}", answer.text)
        assert answer.reason == "stop"


# The other dialects


@pytest.mark.parametrize(
    ("metadata", "pattern"),
    [
        ({"regex": r"[a-f]{3}(-[a-f]{3}){2}"}, r"[a-f]{3}(-[a-f]{3}){2}"),
        ({"lark": 'start: WORD ", " WORD "!"\nWORD: /[A-Z][a-z]{1,6}/'}, r"[A-Z][a-z]{1,6}, [A-Z][a-z]{1,6}!"),
        ({"json_schema": '{"enum": ["yes", "no"]}'}, r'\s*"(yes|no)"'),
    ],
)
def test_metadata_grammars_hold(worker: Worker, metadata: dict[str, str], pattern: str) -> None:
    for seed in range(4):
        turn = ask(worker, chat("Hello!", 60, Metadata=metadata, Temperature=1.5, Seed=seed))
        assert re.fullmatch(pattern, turn.message), turn.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Grammar": 'root ::= "a"\nb ::= ("c" |'}, "line 2"),
        ({"Grammar": 'root ::= <think> "b"'}, "token"),
        ({"Grammar": "root ::= missing"}, "missing"),
        ({"Metadata": {"lark": 'start: "a" missing'}}, "line 1, column"),
        ({"Metadata": {"regex": "(a"}}, "regular expression"),
        ({"Metadata": {"json_schema": '{"type": "object", "if": {}}'}}, "unsupported keyword"),
        ({"Metadata": {"json_schema": '{"type": "array", "uniqueItems": true}'}}, "uniqueItems"),
        ({"Metadata": {"json_schema": '{"not": {"type": "null"}}'}}, "not"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused_with_its_reason(
    worker: Worker, fields: dict[str, Any], words: str
) -> None:
    for answer in (predict(worker.stub, chat("Hi", **fields)), stream(worker.stub, chat("Hi", **fields))):
        answer.refused(grpc.StatusCode.INVALID_ARGUMENT, words)


# Beside everything else


def test_a_grammar_begins_after_the_reasoning(worker: Worker) -> None:
    free = ask(worker, chat(ASK_JSON, 100, Metadata=THINKING))
    held = ask(worker, chat(ASK_JSON, 100, Metadata={**THINKING, **SCHEMA}))
    assert held.reasoning == free.reasoning != ""
    jsonschema.validate(json.loads(held.content), PERSON)
    words = ask(worker, chat(CAPITAL, 200, Metadata={**THINKING, **SCHEMA}))
    assert "France" in words.reasoning
    jsonschema.validate(json.loads(words.content), PERSON)


@pytest.mark.slow
@pytest.mark.parametrize("metadata", [slow({}), THINKING])
def test_a_marker_in_a_held_string_is_text(worker: Worker, metadata: dict[str, str]) -> None:
    """A grammar takes tokens that are not special as the text they spell, `<think>` in a JSON string too."""
    for words in ("a <think> b", "<think>", "</think>", "<think>x</think>", "<tool_call>"):
        wanted = json.dumps({"html": words})
        lark = {"lark": f"start: {json.dumps(wanted)}"}
        turn = ask(worker, chat(CAPITAL, 200, Metadata={**metadata, **lark}, Tools=TOOLS))
        assert json.loads(turn.content) == {"html": words}
        assert bool(turn.reasoning) == bool(metadata)
        assert not turn.calls


def test_a_stop_string_ends_an_answer_within_its_grammar(worker: Worker) -> None:
    whole = ask(worker, chat(ASK_JSON, 100, Metadata=SCHEMA)).message
    turn = ask(worker, chat(ASK_JSON, 100, Metadata=SCHEMA, StopPrompts=[',"age"']))
    assert turn.answer.reason == "stop-string"
    assert turn.message == whole.split(',"age"')[0] != whole
    assert is_json_prefix(turn.message)


def test_logprobs_of_a_held_answer_are_the_models_own(worker: Worker) -> None:
    turn = ask(worker, chat("Hello!", 60, Grammar=DIGITS, Logprobs=2))
    assert turn.answer.last.tokens == len(turn.answer.logprobs)
    assert "".join(entry["token"] for entry in turn.answer.logprobs) == turn.message
    free = ask(worker, chat("Hello!", 1, Logprobs=2)).answer.logprobs[0]
    first = turn.answer.logprobs[0]
    assert first["top_logprobs"] == free["top_logprobs"]  # what the model wanted, not what it was held to
    assert first["logprob"] < free["logprob"]


@pytest.mark.slow
def test_a_seeded_held_answer_repeats_itself_in_a_crowd(worker: Worker) -> None:
    def held(seed: int) -> Answer:
        return stream(worker.stub, chat(ASK_JSON, 80, Metadata=SCHEMA, Temperature=1.3, Seed=seed, Logprobs=1))

    def free(seed: int) -> Answer:
        return stream(worker.stub, chat("Tell me a story.", 80, Temperature=1.0, Seed=seed, Logprobs=1))

    seeds = range(5)
    alone = [(held(seed).logprobs, free(seed).logprobs) for seed in seeds]
    assert len({json.dumps(one) for one, _ in alone}) > 1
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        pairs = [(pool.submit(held, seed), pool.submit(free, seed)) for seed in seeds]
        together = [(one.result().logprobs, other.result().logprobs) for one, other in pairs]
    assert together == alone


def test_penalties_and_bias_choose_among_what_the_grammar_allows(worker: Worker) -> None:
    grammar = r"root ::= [ab] [ab] [ab] [ab] [ab] [ab]"
    a, b = (worker.stub.TokenizeString(pb.PredictOptions(Prompt=text)).tokens for text in "ab")
    assert len(a) == len(b) == 1
    forced = ask(worker, prompt("Once", 20, Grammar=grammar, LogitBias=json.dumps({a[0]: 1000})))
    assert forced.message == "aaaaaa"
    # The window holds the last two tokens: what was just written costs more than any preference.
    turn = ask(
        worker,
        prompt("Once", 20, Grammar=grammar, FrequencyPenalty=2, PresencePenalty=2, Penalty=100, Repeat=1, Logprobs=1),
    )
    assert re.fullmatch("[ab]{6}", turn.message)
    assert turn.message != ask(worker, prompt("Once", 20, Grammar=grammar)).message


def test_a_complete_answer_ends_although_end_of_sequence_is_ignored(worker: Worker) -> None:
    turn = ask(worker, prompt("Once", 50, Grammar=DIGITS, IgnoreEOS=True))
    assert re.fullmatch(r"\d{3}-\d{2}", turn.message)
    assert turn.answer.reason == "stop"


def test_an_answer_cut_by_its_budget_is_right_so_far(worker: Worker) -> None:
    whole = ask(worker, chat(ASK_JSON, 100, Metadata=SCHEMA))
    for tokens in range(1, whole.answer.last.tokens):
        cut = ask(worker, chat(ASK_JSON, tokens, Metadata=SCHEMA))
        assert (cut.answer.reason, cut.answer.last.tokens) == ("length", tokens)
        assert is_json_prefix(cut.message)
        assert whole.message.startswith(cut.message)


def test_a_required_call_may_be_cut_but_is_never_half_a_call(worker: Worker) -> None:
    turn = ask(worker, weather(ToolChoice="required", Tools=TOOLS))
    request = weather(ToolChoice="required", Tools=TOOLS)
    request.Tokens = turn.answer.last.tokens - 12
    cut = ask(worker, request)
    assert (cut.answer.reason, cut.calls) == ("length", [])
