"""Patterns that match the empty text, told without running them."""

import random
import re
import time

import pytest

from backend.core.call_shape import ForcedCall, FreeText, TextLimits
from backend.core.request import ToolChoice
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.emptiness import matches_nothing
from backend.grammar.tools import tool_grammar
from tests.grammar.vocabularies import CONTROL, walk

REQUIRED = ToolChoice(mode="required")
ITEMS = ("a", ".", r"\d", "[a|(]", "[^]*]", r"[\]a]", r"\(", r"\|", r"\x41", "", "(?:)")
OPENINGS = ("(", "(?:", "(?i:", "(?s:")
COUNTS = ("*", "+", "?", "{0}", "{0,3}", "{1,2}", "{2}", "{2,}", "{0,}", "*?", "+?", "??", "{1,2}?")


def written(rng: random.Random, depth: int) -> str:
    kind = rng.random() if depth else 0.0
    if kind < 0.3:
        return rng.choice(ITEMS)
    if kind < 0.55:
        return "".join(written(rng, depth - 1) for _ in range(rng.randint(0, 3)))
    if kind < 0.75:
        return rng.choice(OPENINGS) + "|".join(written(rng, depth - 1) for _ in range(rng.randint(1, 3))) + ")"
    return f"(?:{written(rng, depth - 1)}){rng.choice(COUNTS)}"


def test_it_is_as_running_them_says() -> None:
    rng, found = random.Random(3), set[bool]()
    for _ in range(4000):
        pattern = "|".join(written(rng, 4) for _ in range(rng.randint(1, 2)))
        found.add(matches_nothing(pattern))
        assert matches_nothing(pattern) is (re.fullmatch(pattern, "") is not None), pattern
    assert found == {True, False}


@pytest.mark.parametrize(
    ("pattern", "nothing"),
    [
        ("a?" + "{80}" * 5, True),
        ("a{99999999999}", False),
        ("(" * 3000 + ")" * 3000, True),
        ("(|)" * 1300 + "c", False),
        (r"\p{L}|\u{0}|(?<n>a)", False),
        ("[" * 4096, False),
    ],
)
def test_a_clients_pattern_is_not_run_to_write_a_grammar(pattern: str, nothing: bool) -> None:
    """Where the end tag is a control token, the text in front of it may be absent, if it may be empty."""
    shape = (FreeText(end="<|call|>", limits=(TextLimits(pattern=pattern),)),)
    begun = time.process_time()
    found = tool_grammar([ForcedCall("f", shape)], REQUIRED, special={"<|call|>": CONTROL})
    assert time.process_time() - begun < 0.5
    assert found is not None
    assert ("(TEXT0)?" in found.grammar.text) is nothing


@pytest.mark.parametrize(("pattern", "empty"), [("a*", True), ("a+", False), ("(?:a|b?)", True), ("(?:a|b)c?", False)])
def test_an_empty_value_is_admitted_where_its_pattern_matches_it(
    compiler: GrammarCompiler, pattern: str, empty: bool
) -> None:
    shape = (FreeText(end="<|call|>", limits=(TextLimits(pattern=pattern),)),)
    found = tool_grammar([ForcedCall("f", shape)], REQUIRED, special={"<|call|>": CONTROL})
    assert found is not None
    compiled = compiler.compile(found.grammar)
    assert (walk(compiled.constraint(), [CONTROL]) == 1) is empty
    assert walk(compiled.constraint(), [ord("a"), *(b"c" if pattern.endswith("c?") else b""), CONTROL]) > 1
