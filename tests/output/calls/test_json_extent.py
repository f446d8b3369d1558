"""Where JSON ends, and where it breaks."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.output.calls.json_extent import JsonExtent

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(values) | st.dictionaries(st.text(), values), st.text(max_size=5), st.booleans())
def test_the_end_is_found_as_soon_as_the_last_bracket_is_there(value: Any, rest: str, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if ascii_only else None)
    extent = JsonExtent()
    found = [extent.find_end(text[:end]) for end in range(len(text))]
    assert found == [None] * len(text)
    assert extent.find_end(text + rest) == len(text)
    assert JsonExtent(2).find_end("  " + text + rest) == len(text) + 2


@pytest.mark.parametrize(
    ("text", "broken_at"),
    [
        ("x", 1),
        ('"a"', 1),
        ("{bad}", 2),
        ('{"a" 1}', 6),
        ('{"a": 1,}', 9),
        ("[1,]", 4),
        ("[1}", 3),
        ('{"a": tru}', 10),
        ("[01]", 4),
        ("[1 2]", 4),
        ("{]", 2),
        ('{"a"]', 5),
        ("[" * 600, 513),
        ("[" + "1" * 5000, 4098),
    ],
)
def test_what_cannot_become_json_is_refused_at_the_character_that_breaks_it(text: str, broken_at: int):
    extent = JsonExtent()
    for end in range(1, broken_at):
        assert extent.find_end(text[:end]) is None
    with pytest.raises(ValueError, match=r"no |not |nested|long"):
        extent.find_end(text[:broken_at])
