"""Tool choice as grammar, in the forms that models write calls."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from backend.core.call_shape import (
    CallSection,
    Either,
    Fixed,
    ForcedCall,
    FreeText,
    JsonValue,
    Member,
    Members,
    Shape,
    TextLimits,
)
from backend.core.errors import InvalidRequest
from backend.core.request import ToolChoice
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.tools import literal, strict_functions, tool_grammar
from backend.grammar.waiting import Activation
from tests.grammar.vocabularies import CONTROL, EOS, accepts, allowed, token, walk

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def framed(name: str, schema: dict[str, Any], begin: str, end: str) -> ForcedCall:
    return ForcedCall(name, (Fixed(begin), JsonValue(schema), Fixed(end)))


def hermes(name: str, schema: dict[str, Any]) -> ForcedCall:
    return framed(name, schema, f'{{"name": {json.dumps(name)}, "arguments": ', "}")


FORMS = [hermes("get_weather", CITY), hermes("count", COUNT)]
ALONE = CallSection(trigger="<tool_call>", begin="<tool_call>\n", end="\n</tool_call>")
SECTION = replace(ALONE, again="\n")
REQUIRED = ToolChoice(mode="required")


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_required_takes_any_tool_with_arguments_that_fit(compiler: GrammarCompiler) -> None:
    found = tool_grammar(FORMS, REQUIRED, sections=[ALONE])
    assert found is not None
    assert found.triggers == ()
    compiled = compiler.compile(found.grammar)
    assert accepts(compiled.constraint(), call("get_weather", '{"city": "Paris"}'))
    assert accepts(compiled.constraint(), call("count", '{"n": 3}'))
    assert not accepts(compiled.constraint(), call("count", '{"n": "3"}'))
    assert not accepts(compiled.constraint(), call("count", '{"city": "Paris"}'))
    assert not accepts(compiled.constraint(), "I would rather not.")


@pytest.mark.parametrize("guidance", ["text", None, [], 3, True])
def test_a_schema_whose_x_guidance_is_no_object_is_the_tools_fault(guidance: object) -> None:
    with pytest.raises(InvalidRequest, match="x-guidance must be an object") as refused:
        tool_grammar([hermes("count", {**COUNT, "x-guidance": guidance})], REQUIRED)
    assert refused.value.field == "Tools"


def test_a_named_function_takes_only_that_one(compiler: GrammarCompiler) -> None:
    found = tool_grammar(FORMS, ToolChoice(mode="function", function="count"), sections=[ALONE])
    assert found is not None
    compiled = compiler.compile(found.grammar)
    assert accepts(compiled.constraint(), call("count", '{"n":3}'))
    assert not accepts(compiled.constraint(), call("get_weather", '{"city": "Paris"}'))


def test_a_call_is_finished_at_its_end(compiler: GrammarCompiler) -> None:
    found = tool_grammar(FORMS, REQUIRED, sections=[ALONE])
    assert found is not None
    constraint = compiler.compile(found.grammar).constraint()
    tokens = [token(b"<tool_call>"), *call("count", '{"n": 3}').encode()[len("<tool_call>") : -len("</tool_call>")]]
    assert walk(constraint, tokens) == len(tokens)
    assert not constraint.finished
    constraint.advance(token(b"</tool_call>"))
    assert constraint.finished
    assert allowed(constraint.mask()) == {EOS}


@pytest.mark.parametrize(
    ("section", "whole"),
    [
        (SECTION, "<tool_call>\nA\n</tool_call>\n<tool_call>\nB\n</tool_call>"),
        (CallSection(begin="<tool_call>\n", end="\n</tool_call>", between="\n"), "<tool_call>\nA\nB\n</tool_call>"),
        (CallSection(begin="<tool_call>\n", end="\n</tool_call>", between=", "), "<tool_call>\nA, B\n</tool_call>"),
    ],
)
def test_required_calls_may_be_several_if_the_format_has_them(
    compiler: GrammarCompiler, section: CallSection, whole: str
) -> None:
    # They begin as the section's end does: a lexer that had taken a line break for its beginning could not go back.
    forms = [framed(name, COUNT, f"<{name}>", "</>") for name in ("count", "other")]
    text = whole.replace("A", '<count>{"n": 3}</>').replace("B", '<other>{"n": 4}</>')
    for several in (True, False):
        found = tool_grammar(forms, REQUIRED, sections=[section], several=several)
        assert found is not None
        compiled = compiler.compile(found.grammar)
        assert accepts(compiled.constraint(), text) is several
        assert accepts(compiled.constraint(), f'{section.begin}<count>{{"n": 3}}</>{section.end}')
    named = tool_grammar(forms, ToolChoice(mode="function", function="count"), sections=[section])
    assert named is not None
    assert not accepts(compiler.compile(named.grammar).constraint(), text.replace("other", "count"))


def test_each_line_of_the_grammar_says_whose_it_is() -> None:
    found = tool_grammar(FORMS, REQUIRED, sections=[SECTION])
    assert found is not None
    lines = found.grammar.text.splitlines()
    assert len(lines) == len(found.functions)
    for line, function in zip(lines, found.functions, strict=True):
        assert ("%json" in line) <= (function != "")
        assert ('"n"' in line) <= (function == "count")


def test_auto_holds_only_strict_tools_and_leaves_text_free(compiler: GrammarCompiler) -> None:
    auto = ToolChoice(mode="auto")
    assert tool_grammar(FORMS, auto) is None
    found = tool_grammar(FORMS, auto, strict=True, sections=[SECTION])
    assert found is not None
    assert found.triggers == ("<tool_call>",)
    activation = Activation(triggers=(b"<tool_call>",))
    constraint = compiler.compile(found.grammar).constraint(activation)
    text = "Let me see." + call("count", '{"n": 3}') + "\n" + call("get_weather", '{"city": "x"}') + " Done."
    assert walk(constraint, list(text.encode())) == len(text)
    bad = text.replace("3", '"3"')
    assert walk(compiler.compile(found.grammar).constraint(activation), list(bad.encode())) == bad.index('"3"')


def test_none_asks_for_nothing() -> None:
    assert tool_grammar(FORMS, ToolChoice(mode="none"), strict=True, sections=[SECTION]) is None


def test_a_choice_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'missing' is not among the tools"):
        tool_grammar(FORMS, ToolChoice(mode="function", function="missing"))
    with pytest.raises(InvalidRequest, match="required needs tools"):
        tool_grammar([], REQUIRED)


def test_markers_that_are_control_tokens_are_matched_as_tokens(compiler: GrammarCompiler) -> None:
    form = framed("f", COUNT, "<|call|>f<|call|>", "<|call|>")
    found = tool_grammar([form], REQUIRED, special={"<|call|>": CONTROL})
    assert found is not None
    constraint = compiler.compile(found.grammar).constraint()
    tokens = [CONTROL, ord("f"), CONTROL, *b'{"n": 3}', CONTROL]
    assert walk(constraint, tokens) == len(tokens)
    assert constraint.finished


def test_a_literal_is_cut_at_the_first_and_longest_control_token() -> None:
    assert literal("a<x><xy>b", {"<x": 1, "<x>": 2, "<xy>": 3}) == ['"a"', "<[2]>", "<[3]>", '"b"']
    assert literal("", {}) == []


def test_names_and_markers_with_quotes_and_slashes_stay_themselves(compiler: GrammarCompiler) -> None:
    form = framed('a"/\\n\u00e9', COUNT, 'begin "/\\\n\u00e9 ', " end")
    found = tool_grammar([form], REQUIRED)
    assert found is not None
    assert accepts(compiler.compile(found.grammar).constraint(), 'begin "/\\\n\u00e9 {"n": 3} end')


@pytest.mark.parametrize(
    ("tools", "strict"),
    [
        ([], set()),
        ([{"type": "function", "function": {"name": "a"}}], set()),
        ([{"function": {"name": "a", "strict": False}}, {"function": {"name": "b", "strict": True}}], {"b"}),
        ([{"function": "x"}], set()),
    ],
)
def test_strict_is_read_from_the_function(tools, strict) -> None:
    assert strict_functions(tools) == strict


def holds(compiler: GrammarCompiler, shape: Shape, text: str) -> bool:
    found = tool_grammar([ForcedCall("f", shape)], REQUIRED, special={"<|call|>": CONTROL})
    assert found is not None
    return accepts(compiler.compile(found.grammar).constraint(), text)


@pytest.mark.parametrize(
    ("free", "texts", "others"),
    [
        (
            FreeText(end="</p>"),
            ["</p>", "a\n</p>", "</p</p>", "<p>a</b></p>", "\u00e9 \U0001f30d</p>"],
            ["a", "a</p></p>"],
        ),
        (FreeText(end="</p>", tail="\n"), ["\n</p>", "a\n\n</p>"], ["a</p>", "</p>\n</p>"]),
        (
            FreeText(end="]", limits=(TextLimits(least=2, most=3),)),
            ["ab]", "\u00e9\u00e9\u00e9]"],
            ["a]", "abcd]", "]"],
        ),
        (FreeText(end="]", limits=(TextLimits(least=1),)), ["a]"], ["]"]),
        (FreeText(end="]", limits=(TextLimits(pattern="[a-c/]+"),)), ["ab/]"], ["xa]", "]"]),
        (FreeText(end="]", bare_of="blanks"), ["]", "a]", "a b]"], [" a]", "a ]", "\x1ca]", " ]"]),
        (FreeText(end="]", bare_of="line breaks"), ["]", " a]", "a\nb]"], ["\na]", "a\n]", "\n]"]),
    ],
)
def test_free_text_ends_at_its_end_and_keeps_its_limits(
    compiler: GrammarCompiler, free: FreeText, texts: list[str], others: list[str]
) -> None:
    for text in texts:
        assert holds(compiler, (Fixed("<"), free, Fixed(".")), f"<{text}."), text
    for text in others:
        assert not holds(compiler, (Fixed("<"), free, Fixed(".")), f"<{text}."), text


@pytest.mark.parametrize(("tail", "texts"), [("", ["", "ab\n"]), ("\n", ["\n", "ab\n"])])
def test_free_text_may_end_in_a_control_token(compiler: GrammarCompiler, tail: str, texts: list[str]) -> None:
    found = tool_grammar(
        [ForcedCall("f", (Fixed("<"), FreeText(end="<|call|>", tail=tail)))], REQUIRED, special={"<|call|>": CONTROL}
    )
    assert found is not None
    for text in texts:
        tokens = [ord("<"), *text.encode(), CONTROL]
        assert walk(compiler.compile(found.grammar).constraint(), tokens) == len(tokens)
    spelled = [ord("<"), *b"<|call|>\n", CONTROL]
    assert walk(compiler.compile(found.grammar).constraint(), spelled) == len("<" + "<|call|")


@pytest.mark.parametrize("required", [(), ("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c")])
@pytest.mark.parametrize("separator", ["", ", "])
def test_arguments_come_in_order_and_the_optional_ones_may_be_missing(
    compiler: GrammarCompiler, required: tuple[str, ...], separator: str
) -> None:
    items = tuple(Member((Fixed(name),), name in required) for name in "abc")
    shape = (Fixed("("), Members(items, separator), Fixed(")"))
    for count in range(4):
        for names in itertools.permutations("abc", count):
            right = list(names) == sorted(names) and set(required) <= set(names)
            assert holds(compiler, shape, f"({separator.join(names)})") is right, names


def test_no_arguments_and_alternatives_are_written(compiler: GrammarCompiler) -> None:
    assert holds(compiler, (Fixed("("), Members(()), Fixed(")")), "()")
    either = (Either(((Fixed("a"), JsonValue({"type": "integer"})), (Fixed("b"),))),)
    assert [holds(compiler, either, text) for text in ("a3", "b", "a", "ab")] == [True, True, False, False]


def test_what_may_lead_is_part_of_a_call_that_must_come_only(compiler: GrammarCompiler) -> None:
    call = ForcedCall("f", (Fixed("<c>"), JsonValue(COUNT)), lead="start ")
    found = tool_grammar([call], REQUIRED)
    assert found is not None
    for text in ('<c>{"n": 1}', 'start <c>{"n": 1}'):
        assert accepts(compiler.compile(found.grammar).constraint(), text)
    free = tool_grammar([call], ToolChoice(mode="auto"), strict=True, sections=[CallSection(trigger="<c>")])
    assert free is not None
    assert accepts(compiler.compile(free.grammar).constraint(), '{"n": 1}')
    assert tool_grammar([call], ToolChoice(mode="auto"), strict=True, sections=[CallSection()]) is None
