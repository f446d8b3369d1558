"""Events into replies: one test a rule of what hosts do with them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.config import ModelConfig
from backend.core.events import Delta, Finished, FinishReason, Piece, TokenLogprob, ToolCallDelta, Usage
from backend.pb import backend_pb2 as pb
from backend.translate.logprobs import logprobs_json, written_size
from backend.translate.replies import ReplyStream, whole_reply
from backend.translate.reply_shape import ReplyShape
from backend.translate.requests import prompt_of

TOOLS = json.dumps([{"type": "function", "function": {"name": "f"}}])
MESSAGES = [pb.Message(role="user", content="hi")]
CALL = ToolCallDelta(index=0, id="c", name="f", arguments="{")
MODEL = ModelConfig(identity="m", candidates=("m",))

RAW = pb.PredictOptions(Prompt="p")
CHAT = pb.PredictOptions(UseTokenizerTemplate=True, Messages=MESSAGES)
TOOL_CHAT = pb.PredictOptions(UseTokenizerTemplate=True, Messages=MESSAGES, Tools=TOOLS)


def variant(base: pb.PredictOptions, **fields) -> pb.PredictOptions:
    wire = pb.PredictOptions()
    wire.CopyFrom(base)
    wire.MergeFrom(pb.PredictOptions(**fields))
    return wire


def shape_of(wire: pb.PredictOptions) -> ReplyShape:
    return ReplyShape.of(wire, prompt_of(wire, MODEL))


def usage(tokens: int) -> Usage:
    return Usage(prompt_tokens=7, completion_tokens=tokens, prefill_ms=2.0, decode_ms=3.0)


def end(piece: Piece = Piece(), tokens: int = 1, logprobs: tuple[TokenLogprob, ...] = ()) -> Finished:  # noqa: B008
    return Finished(reason=FinishReason.STOP, piece=piece, usage=usage(tokens), logprobs=logprobs)


def written(last: Finished) -> bytes:
    return logprobs_json(last.logprobs) if last.logprobs else b""


def stream(wire: pb.PredictOptions, *pieces: Piece, last: Finished | None = None) -> list[pb.Reply]:
    replies = ReplyStream(shape_of(wire))
    sent = [reply for n, piece in enumerate(pieces) for reply in replies.delta(Delta(piece=piece, usage=usage(n + 1)))]
    last = last or end(tokens=len(pieces))
    return [*sent, *replies.finished(last, written(last))]


def whole(wire: pb.PredictOptions, *pieces: Piece, last: Finished | None = None) -> pb.Reply:
    last = last or end(tokens=len(pieces))
    return whole_reply(list(pieces), last, shape_of(wire), written(last))


def content(reply: pb.Reply) -> str:
    return "".join(delta.content for delta in reply.chat_deltas)


def message(replies: list[pb.Reply]) -> str:
    return b"".join(reply.message for reply in replies).decode()


def test_every_reply_has_running_totals_and_milliseconds() -> None:
    replies = stream(RAW, Piece(content="a"), Piece(content="b"))
    assert [reply.tokens for reply in replies] == [1, 2, 2]
    assert {reply.prompt_tokens for reply in replies} == {7}
    assert {(reply.timing_prompt_processing, reply.timing_token_generation) for reply in replies} == {(2.0, 3.0)}


@pytest.mark.parametrize("wire", [RAW, CHAT, variant(TOOL_CHAT, Prompt="p")])
def test_rule_2_message_equals_the_content_of_its_deltas(wire: pb.PredictOptions) -> None:
    replies = stream(wire, Piece(content="a"), Piece(content="b"), last=end(Piece(content="c")))
    assert message(replies) == "abc"
    assert all(reply.message.decode() == content(reply) for reply in replies)


def test_rule_2_reasoning_and_calls_come_with_an_empty_message() -> None:
    piece = Piece(content="a", reasoning="r", tool_calls=(CALL,))
    for reply in stream(variant(TOOL_CHAT, Prompt="p"), piece):
        reasons = any(delta.reasoning_content or delta.tool_calls for delta in reply.chat_deltas)
        assert not (reasons and reply.message)


def test_rule_2_reasoning_is_sent_before_the_content_that_it_led_to() -> None:
    first, second, *_ = stream(CHAT, Piece(content="a", reasoning="r"))
    assert (first.chat_deltas[0].reasoning_content, first.message) == ("r", b"")
    assert (second.chat_deltas[0].content, second.message) == ("a", b"a")


def test_rule_3_a_chat_with_tools_has_its_text_in_deltas_only() -> None:
    replies = stream(TOOL_CHAT, Piece(content="a"), Piece(tool_calls=(CALL,)))
    assert message(replies) == ""
    assert "".join(content(reply) for reply in replies) == "a"
    assert (whole(TOOL_CHAT, Piece(content="a")).message, content(whole(TOOL_CHAT, Piece(content="a")))) == (b"", "a")


@pytest.mark.parametrize(
    "wire",
    [
        variant(TOOL_CHAT, ToolChoice="none"),
        variant(TOOL_CHAT, ToolChoice='"none"'),
        variant(TOOL_CHAT, Grammar="root ::= 1"),
        variant(TOOL_CHAT, Prompt="joined text"),
        variant(TOOL_CHAT, Metadata={"message": "always"}),
        variant(RAW, Tools=TOOLS),
    ],
)
def test_rule_3_has_exceptions_for_those_who_read_message(wire: pb.PredictOptions) -> None:
    assert message(stream(wire, Piece(content="a"))) == "a"
    assert whole(wire, Piece(content="a")).message == b"a"


def test_rule_3_a_grammar_with_tools_sends_text_and_calls() -> None:
    wire = variant(TOOL_CHAT, Grammar="root ::= 1")
    replies = stream(wire, Piece(content="a"), Piece(tool_calls=(CALL,)))
    assert message(replies) == "a"
    assert replies[1].chat_deltas[0].tool_calls[0].name == "f"


def test_rule_4_the_last_reply_repeats_nothing_and_has_what_was_held() -> None:
    replies = stream(CHAT, Piece(content="a", reasoning="r"), last=end(Piece(content="b")))
    assert message(replies) == "ab"
    assert "".join(delta.reasoning_content for reply in replies for delta in reply.chat_deltas) == "r"
    assert (replies[-1].message, replies[-1].tokens) == (b"b", 1)


def test_rule_5_calls_keep_index_id_name_and_their_fragments() -> None:
    more = ToolCallDelta(index=0, arguments="}")
    other = ToolCallDelta(index=1, id="d", name="g", arguments="{}")
    replies = stream(TOOL_CHAT, Piece(tool_calls=(CALL,)), Piece(tool_calls=(more, other)))
    calls = [call for reply in replies for delta in reply.chat_deltas for call in delta.tool_calls]
    assert [(call.index, call.id, call.name, call.arguments) for call in calls] == [
        (0, "c", "f", "{"),
        (0, "", "", "}"),
        (1, "d", "g", "{}"),
    ]


def test_rule_5_a_unary_answer_has_each_call_whole() -> None:
    reply = whole(TOOL_CHAT, Piece(tool_calls=(CALL,)), Piece(tool_calls=(ToolCallDelta(index=0, arguments="}"),)))
    calls = reply.chat_deltas[0].tool_calls
    assert [(call.index, call.id, call.name, call.arguments) for call in calls] == [(0, "c", "f", "{}")]


@pytest.mark.parametrize("piece", [Piece(), Piece(reasoning="r")])
def test_rule_6_a_turn_without_an_answer_gets_one_space(piece: Piece) -> None:
    replies = stream(CHAT, piece)
    assert (message(replies), content(replies[-1])) == (" ", " ")
    replies = stream(TOOL_CHAT, piece)
    assert (message(replies), content(replies[-1])) == ("", " ")
    reply = whole(CHAT, piece)
    assert (reply.message, content(reply)) == (b" ", " ")


def test_rule_6_a_used_up_budget_needs_no_space() -> None:
    wire = variant(CHAT, Tokens=5)
    assert message(stream(wire, Piece(reasoning="r"), last=end(tokens=5))) == ""
    assert message(stream(wire, Piece(reasoning="r"), last=end(tokens=4))) == " "
    assert whole(wire, Piece(reasoning="r"), last=end(tokens=5)).message == b""


def test_rule_6_is_for_turns_of_messages_and_not_for_raw_prompts() -> None:
    assert message(stream(RAW, Piece())) == ""
    assert whole(RAW, Piece()).message == b""


def test_rule_6_a_tool_call_is_an_answer() -> None:
    assert not any(content(reply) for reply in stream(TOOL_CHAT, Piece(tool_calls=(CALL,))))


def test_rule_6_white_space_alone_is_told_to_the_host_in_a_delta() -> None:
    reply = whole(CHAT, Piece(content="\n"))
    assert (reply.message, content(reply)) == (b"\n", "\n")


def test_rule_7_a_plain_unary_answer_is_message_alone() -> None:
    for wire in (RAW, CHAT, variant(TOOL_CHAT, ToolChoice="none")):
        reply = whole(wire, Piece(content="a"), Piece(content="b"))
        assert (reply.message, len(reply.chat_deltas)) == (b"ab", 0)


def test_rule_7_reasoning_brings_the_content_into_the_deltas_too() -> None:
    reply = whole(CHAT, Piece(reasoning="r"), Piece(content="a"))
    assert (reply.message, content(reply), reply.chat_deltas[0].reasoning_content) == (b"a", "a", "r")


def test_rule_8_nothing_new_is_no_reply() -> None:
    assert len(stream(CHAT, Piece(), Piece(content="a"))) == 2


def test_the_replacement_character_never_reaches_message() -> None:
    replies = stream(CHAT, Piece(content="a\ufffdb"), Piece(content="\ufffd"), last=end(Piece(content="\ufffdc")))
    assert message(replies) == "abc"
    assert "".join(content(reply) for reply in replies) == "abc"
    assert whole(CHAT, Piece(content="\ufffda")).message == b"a"


def test_logprobs_are_whole_on_the_last_reply_and_only_there() -> None:
    other = TokenLogprob(id=4, token=b"b", logprob=float("-inf"))
    token = TokenLogprob(id=3, token=b"\xc3", logprob=-0.5, top=(other,))
    last = end(Piece(content="b", reasoning="r"), logprobs=(token, token))
    replies = stream(CHAT, Piece(content="a"), last=last)
    assert not any(reply.logprobs for reply in replies[:-1])
    entry = {
        "id": 3,
        "token": "\ufffd",
        "bytes": [0xC3],
        "logprob": -0.5,
        "top_logprobs": [{"id": 4, "token": "b", "bytes": [98], "logprob": -9999.0}],
    }
    assert json.loads(replies[-1].logprobs) == {"content": [entry, entry]}
    assert json.loads(whole(CHAT, last=last).logprobs) == {"content": [entry, entry]}


TOKENS = st.builds(
    TokenLogprob,
    id=st.integers(0, 3),
    token=st.binary(max_size=4),
    logprob=st.floats(-1e6, 0) | st.just(float("-inf")),
)


@given(st.lists(st.tuples(TOKENS, st.lists(TOKENS, max_size=3)), min_size=1, max_size=4))
def test_logprobs_are_what_json_reads_back(entries: list) -> None:
    # One id has one text, as in a vocabulary.
    texts = {token.id: token.token for chosen, top in entries for token in (chosen, *top)}
    tokens = [
        replace(chosen, token=texts[chosen.id], top=tuple(replace(o, token=texts[o.id]) for o in top))
        for chosen, top in entries
    ]

    def shown(token: TokenLogprob) -> dict:
        value = -9999.0 if token.logprob == float("-inf") else token.logprob
        text = token.token.decode("utf-8", "replace")
        return {"id": token.id, "token": text, "bytes": list(token.token), "logprob": value}

    expected = [{**shown(t), "top_logprobs": [shown(o) for o in t.top]} for t in tokens]
    assert json.loads(logprobs_json(tokens)) == {"content": expected}


def test_the_size_of_logprobs_is_reckoned_within_a_factor_of_two() -> None:
    other = TokenLogprob(id=1234, token=b" word", logprob=-12.345678901234567)
    tokens = [replace(other, top=(other,) * 20)] * 10
    assert 0.5 < len(logprobs_json(tokens)) / written_size(tokens) < 2
    assert written_size([]) == 0


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=6), st.booleans())
def test_a_stream_and_a_unary_answer_say_the_same_however_it_was_cut(parts: list, has_tools: bool) -> None:
    wire = TOOL_CHAT if has_tools else CHAT
    pieces = [Piece(content=text, reasoning=reasoning) for text, reasoning in parts]
    replies, reply = stream(wire, *pieces), whole(wire, *pieces)
    assert message(replies) == reply.message.decode()
    if reply.chat_deltas:
        assert "".join(content(reply) for reply in replies) == content(reply)
