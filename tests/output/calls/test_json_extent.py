"""Where JSON ends, and where it breaks."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.output.calls.json_extent import JsonExtent
from backend.output.calls.json_text import dump_json, load_json
from tests.output.cutting import cuts

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


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


@given(st.dictionaries(st.text(), values), st.booleans(), st.lists(st.integers(0, 400), max_size=6))
def test_what_is_taken_adds_up_to_the_value_as_we_write_it(value: Any, ascii_only: bool, points: list[int]):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if ascii_only else None)
    extent, taken = JsonExtent(), ""
    for end in [*sorted(point for point in points if point < len(text)), len(text)]:
        extent.find_end(text[:end])
        taken += extent.take()
    assert extent.certain
    assert taken == dump_json(load_json(text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a":"x\ny\tz"}', '{"a": "x\\ny\\tz"}'),
        ('{"a":"\\ud83c\\udf0d \\/ \\u00e9"}', '{"a": "\U0001f30d / \u00e9"}'),
        ('{"a":"\\ud800!\\ud800\\n"}', '{"a": "\\ud800!\\ud800\\n"}'),
        ('{"a":"\\udf0d"}', '{"a": "\\udf0d"}'),
        ('{"a":1.50,"b":1e999}', '{"a": 1.5, "b": 1.7976931348623157e+308}'),
        ('{"a":1,"a":[ ]}', '{"a": 1, "a": []}'),
    ],
)
def test_text_is_made_valid_at_every_cut(text: str, written: str):
    for parts in cuts(text):
        extent, taken, seen = JsonExtent(), "", ""
        for part in parts:
            seen += part
            extent.find_end(seen)
            taken += extent.take()
        assert taken == written


@pytest.mark.parametrize(("text", "at"), [('{"a": "\\q"}', 7), ('{"a": "\\u12x4"}', 7), ('{"a": 1 x', 8)])
def test_it_breaks_at_one_place_and_gives_what_came_before(text: str, at: int):
    for parts in cuts(text):
        extent, taken, seen = JsonExtent(), "", ""
        for part in parts:
            seen += part
            with contextlib.suppress(ValueError):
                extent.find_end(seen)
            taken += extent.take()
        assert (extent.at, taken) == (at, {7: '{"a": "', 8: '{"a": 1'}[at])
