"""Replies as their client reads them, and when their tokens came."""

from backend.client.answers import CallPart, End, Stopwatch, end_of, part_of
from backend.pb import backend_pb2 as pb


def test_text_is_in_deltas_or_in_the_message_never_twice() -> None:
    both = pb.Reply(message=b"Hi", tokens=1, chat_deltas=[pb.ChatDelta(content="Hi")])
    assert part_of(both).content == "Hi"
    assert part_of(pb.Reply(message=b" ")).content == " "
    reasoning = part_of(pb.Reply(chat_deltas=[pb.ChatDelta(reasoning_content="so")]))
    assert (reasoning.content, reasoning.reasoning, reasoning.shows) == ("", "so", True)
    assert not part_of(pb.Reply(tokens=3)).shows


def test_a_calls_pieces_keep_their_index() -> None:
    call = pb.ToolCallDelta(index=1, id="c", name="f", arguments="{")
    assert part_of(pb.Reply(chat_deltas=[pb.ChatDelta(tool_calls=[call])])).calls == (CallPart(1, "c", "f", "{"),)


def test_the_end_says_what_was_cached_unless_the_worker_does_not() -> None:
    told = [("x-finish-reason", "stop"), ("x-prompt-cache-tokens", "7"), ("x-prompt-cache-reason", "whole")]
    assert end_of(told) == End("stop", 7, "whole")
    assert end_of([("x-finish-reason", "length")]) == End("length", None, "")
    assert end_of([("x-drafted-tokens", "9"), ("x-accepted-tokens", "4")]) == End("", None, "", 9, 4)
    assert end_of(None) == End()


def test_the_watch_notes_the_first_and_the_last_token() -> None:
    watch = Stopwatch(10.0)
    watch.saw(0, 10.5)
    assert watch.first_seconds is None
    watch.saw(2, 11.0)
    watch.saw(6, 13.0)
    watch.saw(6, 20.0)
    assert (watch.first_seconds, watch.last, watch.tokens) == (1.0, 13.0, 6)
