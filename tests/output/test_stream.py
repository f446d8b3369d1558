"""The whole way of an answer: tokens, stop strings, sections."""

from backend.core.events import Piece
from backend.output import OutputFormat, OutputStream, PlainParser
from backend.output.formats import formats
from tests.output.cutting import TextTokens, calls_in, cuts, run

THINKING = OutputFormat("<think>", "</think>", formats()["json_tools"])
ANSWER = (
    "<think>\nSome th\u00f4ught.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Z\u00fcrich \U0001f30d"}}\n</tool_call>\n'
    '<tool_call>{"name": "now"}</tool_call>\nDone.'
)


def test_a_plain_answer_passes_unchanged():
    stream = OutputStream(TextTokens([" Hello", "\n", " "]), (), PlainParser())
    assert [stream.push(i).content for i in range(3)] == [" Hello", "\n", " "]
    assert stream.finish() == Piece()


def test_an_answer_is_split_into_reasoning_content_and_calls():
    whole = run(THINKING, [ANSWER])
    assert whole.reasoning == "Some th\u00f4ught."
    assert whole.content == "Let me look.\n\nDone."
    assert calls_in(whole) == [("get_weather", '{"city": "Z\u00fcrich \U0001f30d"}'), ("now", "{}")]


def test_the_stream_adds_up_to_the_unary_answer_at_every_cut():
    whole = run(THINKING, [ANSWER])
    for parts in cuts(ANSWER):
        assert run(THINKING, parts) == whole


def test_a_stop_string_inside_a_call_gives_the_call_back_at_every_cut():
    whole = run(THINKING, [ANSWER], stops=("Z\u00fcr",))
    assert whole.content.endswith('{"city": "')
    assert not whole.tool_calls
    for parts in cuts(ANSWER):
        assert run(THINKING, parts, stops=("Z\u00fcr",)) == whole


def test_a_stop_string_over_a_marker_is_looked_for_before_parsing():
    whole = run(THINKING, [ANSWER], stops=("</think>",))
    assert whole == Piece(reasoning="Some th\u00f4ught.")


def test_finish_reports_what_a_stop_string_held():
    stream = OutputStream(TextTokens(["a", "EN"]), ("END",), PlainParser())
    assert (stream.push(0).content, stream.push(1).content, stream.finish().content) == ("a", "", "EN")
    assert not stream.stopped


def test_each_call_is_sent_as_soon_as_it_is_complete_with_its_name_first():
    stream = OutputStream(TextTokens(list(ANSWER)), (), THINKING.parser(opens_reasoning=False))
    sent = [(i, stream.push(i).tool_calls) for i in range(len(ANSWER))]
    calls = [(i, deltas) for i, deltas in sent if deltas]
    ends = [ANSWER.index("</tool_call>"), ANSWER.rindex("</tool_call>")]
    assert [i for i, _ in calls] == [end + len("</tool_call>") - 1 for end in ends]
    assert [[(d.index, d.name, bool(d.id)) for d in deltas] for _, deltas in calls] == [
        [(0, "get_weather", True), (0, "", False)],
        [(1, "now", True), (1, "", False)],
    ]
    assert stream.has_tool_calls
