"""Arguments between tags whose end tag a model has left out."""

import json
import time

import pytest

from tests.output.cutting import calls_in, cuts, run
from tests.output.golden import TOOLS, check_runnable, format_named

# Up to a value of `city`; then what follows it where its end tag is missing; then the call's end.
WAYS = {
    "qwen3_coder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBern",
        "\n<parameter=days>\n3\n</parameter>",
        "\n</function>\n</tool_call>",
    ),
    "seed_oss": (
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>\nBern",
        "\n<parameter=days>\n3\n</parameter>",
        "\n</function>\n</seed:tool_call>",
    ),
    "glm47": (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Bern",
        "\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>",
        "\n</tool_call>",
    ),
    "longcat": (
        "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Bern",
        "\n<longcat_arg_key>days</longcat_arg_key>\n<longcat_arg_value>3</longcat_arg_value>",
        "\n</longcat_tool_call>",
    ),
}


@pytest.mark.parametrize("name", sorted(WAYS))
def test_a_value_ends_where_the_next_argument_or_the_call_shows_it(name: str):
    head, following, end = WAYS[name]
    for text, arguments in ((head + following + end, {"city": "Bern", "days": 3}), (head + end, {"city": "Bern"})):
        whole = run(format_named(name), [text], tools=TOOLS)
        assert [(called, json.loads(given)) for called, given in calls_in(whole)] == [("get_weather", arguments)]
        assert not whole.content
        for parts in cuts(text, pairs_below=0):
            assert run(format_named(name), parts, tools=TOOLS, in_parts=True) == whole


SPOKEN_OF = [
    ("qwen3_coder", "</function>\n</tool_call> ends one,\n<parameter=x>\n<parameter=city>\nand <parameter=days>\n!"),
    ("qwen3_coder", "a </function>\n</tool_call>\n<tool_call>"),
    ("qwen3_coder", "<function=now>\n<parameter=days>\n</function>\n</tool_call>\n<tool_call>"),
    ("glm47", "</tool_call> ends one, <arg_key>days</arg_key> is a key, <arg_key>x</arg_key><arg_value> too"),
    ("glm47", "<tool_call>now</tool_call><arg_key>days</arg_key><arg_value>3"),
]


@pytest.mark.parametrize(("name", "value"), SPOKEN_OF)
def test_a_value_that_speaks_of_tags_is_whole(name: str, value: str):
    head = WAYS[name][0].removesuffix("Bern")
    tail = "\n</parameter>\n</function>\n</tool_call>" if name == "qwen3_coder" else "</arg_value></tool_call>"
    text = head + value + tail
    whole = run(format_named(name), [text], tools=TOOLS)
    assert [json.loads(given) for _, given in calls_in(whole)] == [{"city": value}]
    for parts in cuts(text, pairs_below=0):
        assert run(format_named(name), parts, tools=TOOLS, in_parts=True) == whole
    for end in range(len(head), len(text)):
        parts = run(format_named(name), list(text[:end]), tools=TOOLS, in_parts=True, cut=True)
        check_runnable(parts, run(format_named(name), [text[:end]], tools=TOOLS, cut=True))
        assert not parts.content


@pytest.mark.parametrize("name", sorted(WAYS))
def test_at_a_limit_a_call_does_not_end_without_the_end_tag(name: str):
    head, _, end = WAYS[name]
    parts = run(format_named(name), [head + end], tools=TOOLS, in_parts=True, cut=True)
    whole = run(format_named(name), [head + end], tools=TOOLS, cut=True)
    assert calls_in(whole) == []
    assert len(calls_in(parts)) == 1
    check_runnable(parts, whole)


@pytest.mark.parametrize("name", sorted(WAYS))
def test_text_after_the_call_shows_that_its_end_was_spoken_of(name: str):
    head, _, end = WAYS[name]
    whole = run(format_named(name), [head + end + " ends a call."], tools=TOOLS)
    assert (whole.content, whole.tool_calls) == (head + end + " ends a call.", ())


@pytest.mark.parametrize("name", sorted(WAYS))
@pytest.mark.parametrize("forced", [True, False])
def test_where_a_grammar_holds_the_call_only_the_end_tag_ends_a_value(name: str, forced: bool):
    head, following, end = WAYS[name]
    parser = format_named(name).parser(opens_reasoning=False, tools=TOOLS, forced=forced, strict=not forced)
    piece = parser.feed(head + following + end) + parser.finish()
    ((_, arguments),) = calls_in(piece)
    assert list(json.loads(arguments)) == ["city"]


@pytest.mark.parametrize("name", sorted(WAYS))
def test_what_is_no_tag_costs_nothing_however_often_it_is_read_again(name: str):
    """Heads without ends, each of which is given back: a step for each `<` behind each took half a second."""
    text = WAYS[name][0] * 100 + "\n<" * 5000
    begun = time.process_time()
    whole = run(format_named(name), [text], tools=TOOLS)
    assert time.process_time() - begun < 0.12
    assert (whole.content, whole.tool_calls) == (text, ())


def test_what_is_read_again_is_bounded_in_all():
    """A call at the end is found only where what is read again before it is not too much."""
    head, call = WAYS["qwen3_coder"][0] + " ", "\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
    for heads, found in ((20, 1), (400, 0)):
        whole = run(format_named("qwen3_coder"), [head * heads + "\n<" * 5000 + call], tools=TOOLS)
        assert len(calls_in(whole)) == found


CALL = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
STEP = (
    "<\uff5ctool_calls_begin\uff5c><\uff5ctool_call_begin\uff5c>function<\uff5ctool_sep\uff5c>"
    '<steptml:invoke name="get_weather"><steptml:parameter name="city">Rome</steptml:parameter></steptml:invoke>'
)
FAR_APART = [
    ("qwen3_coder", WAYS["qwen3_coder"][0] + "\n</function>", "</tool_call>" + CALL),
    ("qwen3_coder", WAYS["qwen3_coder"][0] + "\n</function></tool_call>", CALL),
    ("step3", STEP, "<\uff5ctool_call_end\uff5c><\uff5ctool_calls_end\uff5c>"),
]


@pytest.mark.parametrize(("name", "head", "end"), FAR_APART)
@pytest.mark.parametrize("blanks", [900, 990, 1001, 1002, 1012, 1013, 1014, 1100])
def test_end_tags_far_apart_are_the_same_however_the_answer_is_cut(name: str, head: str, end: str, blanks: int):
    text = head + " " * blanks + end
    whole = run(format_named(name), [text], tools=TOOLS, in_parts=True)
    assert run(format_named(name), list(text), tools=TOOLS, in_parts=True) == whole
