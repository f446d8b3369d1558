"""Calls on the model's own accord: those of strict tools fit their schema wherever they are read, others are free."""

import json
import random
from typing import Any

import pytest

from backend.core.call_shape import CallSection
from backend.core.request import ToolChoice
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.tools import ToolGrammar, tool_grammar
from backend.grammar.waiting import Activation
from backend.output import OutputFormat
from backend.output.formats import formats
from tests.grammar.test_forced_calls import in_one_answer, vocabulary_of, walked
from tests.output.cutting import calls_in, run
from tests.output.golden import format_named
from tests.tiers import slow

SEVEN = {"type": "integer", "minimum": 7, "maximum": 7}
UNHOLDABLE = {
    "type": "object",
    "properties": {"b": {"type": "array", "uniqueItems": True}},
    "anyOf": [{"required": ["b"]}, {"required": ["c"]}],
}
ONE = {"type": "object", "properties": {"a": SEVEN}, "required": ["a"], "additionalProperties": False}
TOOLS: tuple[dict[str, Any], ...] = (
    {"function": {"name": "f", "strict": True, "parameters": ONE}},
    {"function": {"name": "g", "parameters": UNHOLDABLE}},
    {"function": {"name": "<\n>", "parameters": {}}},
)
HELD = frozenset({"f"})
# Nothing marks where a call of theirs begins.
BARE = ("llama3_json", "llama4", "xlam")
QUICK = ("qwen3_coder", "phi4_mini", "deepseek_v32", "kimi_k2")
MARKED = [each if each in QUICK else slow(each) for each in sorted(set(formats()) - {*BARE})]


def grammar_of(output_format: OutputFormat, mode: str, function: str = "") -> ToolGrammar | None:
    calls = output_format.forced_calls(TOOLS, function, held=HELD)
    choice = ToolChoice(mode="function", function=function) if function else ToolChoice(mode="auto")
    return tool_grammar(calls, choice, sections=output_format.call_sections, strict=True)


def in_section(text: str, written: CallSection, section: CallSection) -> str:
    """A call as it stands in another section than the one that is asked for."""
    return section.begin + text.removeprefix(written.begin).removesuffix(written.end) + section.end


@pytest.mark.parametrize("name", MARKED)
def test_a_strict_tool_is_held_behind_every_start_and_another_is_not_looked_at(name: str) -> None:
    output_format, rng = format_named(name), random.Random(name)
    vocabulary = vocabulary_of(output_format, special=False)
    sections = output_format.call_sections
    lead = output_format.calls.lead if output_format.calls else ""
    compiler = GrammarCompiler(vocabulary)
    try:
        alone: dict[str, str] = {}
        for function in ("f", "g"):
            forced = grammar_of(output_format, "function", function)
            assert forced is not None
            compiled = compiler.compile(forced.grammar)
            texts = [walked(compiled, vocabulary, rng) for _ in range(6)]
            alone[function] = min((text.removeprefix(lead) for text in texts if text), key=len)
            ((called, arguments),) = calls_in(run(output_format, [alone[function]], tools=TOOLS))
            assert called == function
            assert isinstance(json.loads(arguments), dict)
        found = grammar_of(output_format, "auto")
        assert found is not None
        assert found.triggers == tuple(section.trigger for section in sections)
        compiled = compiler.compile(found.grammar)
        activation = Activation(triggers=tuple(trigger.encode() for trigger in found.triggers))
        for section in sections:
            right = in_section(alone["f"], sections[0], section)
            assert calls_in(run(output_format, [right], tools=TOOLS)) == [("f", '{"a": 7}')]
            answers = [right, in_section(alone["g"], sections[0], section)]
            if section.between is not None:
                both = [answers[0], *answers[::-1]]
                answers.append(in_one_answer(both, section))
            for answer in answers:
                tokens = list(f"Hm. {answer} So.".encode())
                assert walk_all(compiled.constraint(activation), tokens), answer
            tokens = list(right.replace("7", "x").encode())
            assert not walk_all(compiled.constraint(activation), tokens)
    finally:
        compiler.close()


def walk_all(constraint: Any, tokens: list[int]) -> bool:
    """Whether each token is allowed behind those before it."""
    for token in tokens:
        if not constraint.valid([token]):
            return False
        constraint.advance(token)
    return constraint.error is None


@pytest.mark.parametrize("name", BARE)
def test_calls_that_nothing_marks_are_not_held(name: str) -> None:
    assert grammar_of(format_named(name), "auto") is None
