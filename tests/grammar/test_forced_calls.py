"""What a grammar of forced calls admits, each format's own parser reads as exactly those calls, which fit."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest

from backend.core.call_shape import CallSection
from backend.core.request import ToolChoice
from backend.grammar.compiled import CompiledGrammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.tools import tool_grammar
from backend.grammar.vocabulary import Vocabulary
from backend.output import NotForceable, OutputFormat
from backend.output.formats import formats
from tests import chosen
from tests.grammar.vocabularies import BYTES, accepts, allowed
from tests.output.cutting import calls_in, run
from tests.output.golden import format_named

WALKS = 8 if chosen.every_cut else 3
# Until another function was called, where the grammar leaves it open which.
MOST_WALKS = 16
STEPS = 6000
PRINTABLE = range(0x20, 0x7F)
# Pieces that a walk needs now and then to get out of a value.
PIECES = (
    "</parameter>",
    "\n</parameter>",
    "</param>",
    "]]></param>",
    "]]>",
    "</arg_value>",
    "</longcat_arg_value>",
    "null",
)
PIECES += (
    "</atem:parameter>",
    "</steptml:parameter>",
    "</\uff5cDSML\uff5cparameter>",
    "</",
    '"',
    '"}',
    "true",
    '<|"|>',
    "<escape>",
    "]",
    "}",
    "</tool_call>",
)

EVERYTHING = {
    "type": "object",
    "$defs": {"level": {"type": "string", "enum": ["low", "very high", "12"]}, "point": {"type": "array"}},
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number", "minimum": 0, "maximum": 2},
        "exact": {"type": "boolean"},
        "level": {"$ref": "#/$defs/level"},
        "unit": {"enum": ["m", 3, None, True]},
        "kind": {"const": "plain"},
        "short": {"type": "string", "minLength": 2, "maxLength": 4},
        "code": {"type": "string", "pattern": "^[a-c]{2}/[0-9]$"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "nested": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "maybe": {"type": ["string", "null"]},
        "number_or_null": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "either": {"anyOf": [{"type": "string", "pattern": "^\\w{2,3}$"}, {"type": "integer", "maximum": 9}]},
        "mixed": {"type": ["string", "object", "null"], "maxLength": 3, "maxProperties": 0},
        "anything": {},
        "first name": {"type": "string"},
        "\u540d\u524d-2": {"type": "integer"},
    },
    "required": ["count", "level", "short", "nested", "undeclared"],
}
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "do_it", "parameters": EVERYTHING}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "bare"}},
)
FORMATS = sorted(formats())
# A turn of theirs ends with its call.
ONE_CALL = ("harmony",)
# Each format's markers as control tokens and as text, one of them in the slow tier.
MARKED = [
    pytest.param(name, special, marks=[pytest.mark.slow] if special == number % 2 else [])
    for number, name in enumerate(FORMATS)
    for special in (False, True)
]


def schemas_of(tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What each function takes."""
    return {each["function"]["name"]: each["function"].get("parameters", {}) for each in tools}


def vocabulary_of(output_format: OutputFormat, *, special: bool) -> Vocabulary:
    """Bytes, some pieces, and the format's markers: control tokens, or text like any other."""
    markers = [marker for marker in dict.fromkeys(output_format.markers) if len(marker) > 1]
    pieces = [piece for piece in PIECES if piece not in markers]
    texts = [*(piece.encode() for piece in pieces), *(marker.encode() for marker in markers)]
    first = len(BYTES) + len(pieces)
    ids = {marker: first + index for index, marker in enumerate(markers)} if special else {}
    end = len(BYTES) + len(texts)
    return Vocabulary([*BYTES, *texts, b"<eos>"], {**ids, "<eos>": end}, (end,))


def walked(compiled: CompiledGrammar, vocabulary: Vocabulary, rng: random.Random, steps: int = STEPS) -> str | None:
    """A text that the grammar admits as a whole, drawn at random; None if it got too long."""
    constraint, end = compiled.constraint(), vocabulary.eos_ids[0]
    data = b""
    for _ in range(steps):
        tokens = allowed(constraint.mask(), vocabulary.size)
        assert constraint.error is None
        if end in tokens and (len(tokens) == 1 or rng.random() < 0.3):
            return data.decode()
        tokens -= {end}
        long = [token for token in tokens if token >= len(BYTES)]
        plain = [token for token in tokens if token in PRINTABLE]
        pool = long if long and rng.random() < 0.15 else plain if plain and rng.random() < 0.97 else sorted(tokens)
        token = rng.choice(pool)
        data += vocabulary.tokens[token]
        constraint.advance(token)
    return None


def grammar_of(
    output_format: OutputFormat, special: Mapping[str, int], function: str, tools: Sequence[dict[str, Any]] = TOOLS
) -> Any:
    """The grammar of a call of one function, or of any of them."""
    choice = ToolChoice(mode="function", function=function) if function else ToolChoice(mode="required")
    calls = output_format.forced_calls(tools, function)
    found = tool_grammar(calls, choice, sections=output_format.call_sections, special=special)
    assert found is not None
    return found.grammar


def check_call(
    output_format: OutputFormat, text: str, rng: random.Random, tools: Sequence[dict[str, Any]] = TOOLS
) -> str:
    """The text is one call that fits its schema and nothing else, whole and in parts; the function's name."""
    ((name, _),) = read_calls(output_format, text, rng, tools)
    return name


def read_calls(
    output_format: OutputFormat, text: str, rng: random.Random, tools: Sequence[dict[str, Any]] = TOOLS
) -> list[tuple[str, str]]:
    """The calls that the text is, all of which fit their schemas; it is nothing else, whole and in parts."""
    points = sorted(rng.randrange(len(text) + 1) for _ in range(8))
    parts = [text[i:j] for i, j in zip([0, *points], [*points, len(text)], strict=True)]
    piece = run(output_format, parts, tools=tools)
    assert run(output_format, parts, tools=tools, in_parts=True) == piece, text
    assert (piece.content, piece.reasoning) == ("", ""), text
    for name, arguments in calls_in(piece):
        jsonschema.validate(json.loads(arguments), schemas_of(tools)[name], jsonschema.Draft202012Validator)
    return calls_in(piece)


def in_one_answer(texts: list[str], section: CallSection) -> str:
    """Calls that stand alone, as one answer has them."""
    if section.between is None:
        return (section.again or "").join(texts)
    own = [text.removeprefix(section.begin).removesuffix(section.end) for text in texts]
    return section.begin + section.between.join(own) + section.end


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Control tokens as they are, all else byte by byte."""
    marks = [mark for mark in vocabulary.special if mark != "<eos>"]
    pieces = re.split(f"({'|'.join(map(re.escape, sorted(marks, key=len, reverse=True)))})", text) if marks else [text]
    return [token for piece in pieces for token in ([vocabulary.special[piece]] if piece in marks else piece.encode())]


def check_several(
    output_format: OutputFormat,
    alone: list[str],
    compiled: CompiledGrammar,
    vocabulary: Vocabulary,
    rng: random.Random,
) -> None:
    """Calls one after the other, as the format has them, are admitted where calls are required, and read so."""
    section = output_format.call_sections[0]
    if section.between is None and section.again is None:
        assert output_format.format_type in ONE_CALL
        return
    lead = output_format.calls.lead if output_format.calls else ""
    texts = [text.removeprefix(lead) for text in sorted(alone, key=len)]
    # A marker within a value was written letter by letter.
    plain = [
        text for text in texts if compiled.constraint().valid(tokens := tokens_of(text, vocabulary)) == len(tokens)
    ]
    assert plain
    for number in (2, 3):
        texts = [plain[index % len(plain)] for index in range(number)]
        rng.shuffle(texts)
        whole, constraint = in_one_answer(texts, section), compiled.constraint()
        tokens = tokens_of(whole, vocabulary)
        assert constraint.valid(tokens) == len(tokens), whole
        for token in tokens:
            constraint.advance(token)
        assert vocabulary.eos_ids[0] in allowed(constraint.mask(), vocabulary.size)
        apart = [call for text in texts for call in read_calls(output_format, text, rng)]
        assert read_calls(output_format, whole, rng) == apart, whole


@pytest.mark.parametrize(("name", "special"), MARKED)
def test_every_text_that_the_grammar_admits_is_read_as_calls_that_fit(name: str, special: bool) -> None:
    output_format, rng = format_named(name), random.Random(f"{name} {special}")
    vocabulary = vocabulary_of(output_format, special=special)
    compiler = GrammarCompiler(vocabulary)
    called: set[str] = set()
    alone: list[str] = []
    try:
        for function in ("do_it", ""):
            compiled = compiler.compile(grammar_of(output_format, vocabulary.special, function))
            for walk in range(MOST_WALKS):
                if walk >= WALKS and (function or len(called) > 1):
                    break
                text = walked(compiled, vocabulary, rng)
                if text is None:
                    continue
                calls = read_calls(output_format, text, rng)
                assert len(calls) == 1 if function else calls
                called |= {each for each, _ in calls}
                alone += [text] if len(calls) == 1 else []
        check_several(output_format, alone, compiled, vocabulary, rng)
    finally:
        compiler.close()
    assert "do_it" in called
    assert len(called) > 1


def forced(name: str, parameters: dict[str, Any], function: str = "f") -> None:
    format_named(name).forced_calls([{"function": {"name": function, "parameters": parameters}}])


# Not Python's: it has no names of two words.
@pytest.mark.parametrize("name", sorted({*FORMATS} - {"pythonic", "olmo3", "llama4"}))
def test_an_argument_of_two_words_can_be_written(name: str) -> None:
    forced(name, {"required": ["first name"]})


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_that_is_not_ascii_can_be_written(name: str) -> None:
    forced(name, {"required": ["\u540d\u524d", "gr\u00f6\u00dfe"]})


WITH_TAGS = ("qwen3_coder", "glm47", "minimax_m2", "minicpm5", "muse_spark", "seed_oss", "step3", "gemma4", "pythonic")


@pytest.mark.parametrize("name", WITH_TAGS)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"anyOf": [{"required": ["a"]}]}, "'f': arguments written one by one cannot be held to 'anyOf'"),
        ({"required": ["a b:<>"]}, "argument 'a b:<>': its name cannot be written"),
        ({"properties": {"a": False}, "required": ["a"]}, "argument 'a': its schema takes no value"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"minProperties": 1}}}, "'minProperties'"),
    ],
)
def test_what_arguments_one_by_one_cannot_be_held_to_is_refused(name: str, parameters: Any, words: str) -> None:
    with pytest.raises(NotForceable, match=re.escape(words)):
        forced(name, parameters)


# A schema of one argument, texts that its grammar takes, texts that it does not.
VALUES = [
    ({"type": "string", "pattern": "^(yes|no)$"}, ["yes", "no"], ["maybe", ""]),
    ({"type": "string", "pattern": r"^[\w-]\d\W$"}, ["a1!", "-2 "], ["\u00e91!", "a\u0662!", "a1b"]),
    ({"type": ["string", "null"], "maxLength": 3}, ["abc", "null", "12"], ["abcd"]),
    ({"type": ["string", "integer"], "minLength": 2}, ["ab", "7", "-12"], ["a", "1.5", "n"]),
    ({"anyOf": [{"const": "x"}, {"type": "integer", "minimum": 3}]}, ["x", "3", "400"], ["2", "y", "-3"]),
    ({"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "string", "maxLength": 1}]}, ["aaa", "b"], ["bb"]),
    (
        {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "maxItems": 0}]},
        ["[]", "ab"],
        ["[1]", "[", "{"],
    ),
    ({"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 2}]}, ["true", "ab"], ["maybe"]),
    (
        {"anyOf": [{"$ref": "#/$defs/s"}, {"type": "null"}], "$defs": {"s": {"maxLength": 2, "type": "string"}}},
        ["ab"],
        ["abc"],
    ),
]


@pytest.mark.parametrize("name", ["qwen3_coder", "minicpm5"])
@pytest.mark.parametrize(("schema", "texts", "others"), VALUES)
def test_unions_and_patterns_of_a_text_are_held(
    compiler: GrammarCompiler, name: str, schema: dict[str, Any], texts: list[str], others: list[str]
) -> None:
    definitions = {key: schema.pop(key) for key in ("$defs",) if key in (schema := dict(schema))}
    parameters = {"properties": {"k": schema}, "required": ["k"], **definitions}
    output_format, tools = format_named(name), [{"function": {"name": "f", "parameters": parameters}}]
    compiled = compiler.compile(grammar_of(output_format, {}, "f", tools))
    tags = {"qwen3_coder": ("<tool_call>\n<function=f>\n<parameter=k>\n", "\n</parameter>\n</function>\n</tool_call>")}
    begin, end = tags.get(name, ('<function name="f"><param name="k">', "</param></function>"))
    for text in (*texts, *others):
        wrapped = f"<![CDATA[{text}]]>" if name == "minicpm5" and text[:1] not in ("[", "{") else text
        assert accepts(compiled.constraint(), begin + wrapped + end) is (text in texts), text


def test_unions_of_strings_are_held_in_gemmas_quotes(compiler: GrammarCompiler) -> None:
    schema = {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"const": "only"}, {"type": "string", "maxLength": 1}]}
    parameters = {"properties": {"k": schema}, "required": ["k"]}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    compiled = compiler.compile(grammar_of(format_named("gemma4"), {}, "f", tools))
    for text, right in (("aaa", True), ("only", True), ("b", True), ("bb", False), ("onl", False)):
        whole = f'<|tool_call>call:f{{k:<|"|>{text}<|"|>}}<tool_call|>'
        assert accepts(compiled.constraint(), whole) is right, text


def test_how_white_space_is_held_is_inherited_by_each_argument() -> None:
    parameters = {"properties": {"a": {"type": "object"}}, "x-guidance": {"whitespace_flexible": False}}
    for name in ("qwen3_coder", "pythonic"):
        (call,) = format_named(name).forced_calls([{"function": {"name": "f", "parameters": parameters}}])
        assert "whitespace_flexible" in repr(call.shape)


@pytest.mark.parametrize("pattern", ["a^b", "^a|b$", "a$b", r"\bword", "(?=a)b"])
def test_a_pattern_that_cannot_hold_a_whole_text_is_refused(pattern: str) -> None:
    with pytest.raises(NotForceable, match="its pattern has anchors"):
        forced("qwen3_coder", {"properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]})


@pytest.mark.parametrize("name", FORMATS)
def test_a_function_whose_name_the_format_cannot_write_is_refused(name: str) -> None:
    with pytest.raises(NotForceable, match="its name cannot be written"):
        forced(name, {}, function="<a\nb>")


def test_an_argument_that_need_not_be_there_and_cannot_be_written_is_left_out() -> None:
    parameters = {"properties": {"a": {"enum": ["</parameter>"]}, "b": {"type": "integer"}}}
    (call,) = format_named("qwen3_coder").forced_calls([{"function": {"name": "f", "parameters": parameters}}])
    assert "b" in repr(call.shape)
    assert "enum" not in repr(call.shape)


def test_a_model_without_a_format_of_its_own_is_held_to_hermes_and_read_so() -> None:
    plain = OutputFormat()
    assert plain.forced_calls(TOOLS) == format_named("json_tools").forced_calls(TOOLS)
    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for forced_call in (True, False):
        parser = plain.parser(opens_reasoning=False, tools=TOOLS, forced=forced_call)
        piece = parser.feed(text) + parser.finish()
        assert (piece.content, bool(piece.tool_calls)) == (("", True) if forced_call else (text, False))
    with pytest.raises(NotForceable, match="turned off"):
        OutputFormat(calls_off=True).forced_calls(TOOLS)
