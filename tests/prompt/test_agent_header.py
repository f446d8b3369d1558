"""The agent header goes, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.prompt.agent_header import strip_agent_header

key = st.from_regex(r"[a-z_][a-z0-9_.-]{0,8}", fullmatch=True)
value = st.text(st.characters(codec="ascii", exclude_characters=";", categories=("L", "N", "P")), max_size=12)
item = st.builds("{}={};".format, key, value)
header = st.builds(
    lambda name, items, space: f"x-anthropic-{name}:" + "".join(space + one for one in items),
    st.from_regex(r"[a-z][a-z-]{0,12}", fullmatch=True),
    st.lists(item, min_size=1, max_size=5),
    st.sampled_from(["", " ", "  "]),
)
# Instructions: words with spaces between, so that they cannot be read as one more item.
words = st.from_regex(r"[A-Z][a-z]+ [ -~]{0,40}\n?[ -~]{0,10}", fullmatch=True)


@given(header=header, rest=words, gap=st.sampled_from(["", "\n", " ", "\n\n"]))
def test_what_follows_a_header_stays_byte_for_byte(header: str, rest: str, gap: str) -> None:
    assert strip_agent_header(header + gap + rest) == gap + rest


@given(st.text())
def test_text_without_a_header_is_not_touched(text: str) -> None:
    if not text.startswith("x-anthropic-"):
        assert strip_agent_header(text) == text


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("x-anthropic-billing-header: cc_version=2.1.0.a3f; cc_entrypoint=cli; cch=00000;You are", "You are"),
        ("x-anthropic-billing-header: a=1; b=2;\nYou are", "\nYou are"),
        ("x-anthropic-billing-header: a=1; Use x=1; then stop", " Use x=1; then stop"),
        ("x-anthropic-h: a=1;Tone=short and sweet; always", "Tone=short and sweet; always"),
        ("x-anthropic-h:a=;b=2;", ""),
        (" x-anthropic-h: a=1;rest", " x-anthropic-h: a=1;rest"),
        ("x-anthropic-h: no items here;", "x-anthropic-h: no items here;"),
        ("x-anthropic-h: a=1", "x-anthropic-h: a=1"),
        ("x-anthropic-h: a=1;x-anthropic-h: b=2;rest", "x-anthropic-h: b=2;rest"),
        ("See x-anthropic-h: a=1;", "See x-anthropic-h: a=1;"),
    ],
)
def test_only_the_header_and_its_items_go(text: str, rest: str) -> None:
    assert strip_agent_header(text) == rest
