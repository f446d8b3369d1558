"""Markers in text that arrives in pieces."""

import pytest

from backend.output.markers import MarkerSet

MARKERS = MarkerSet(["<a>", "<a>b<c>", "[x]", ""])


@pytest.mark.parametrize(
    ("text", "final", "found"),
    [
        ("plain", False, (5, "")),
        ("x<a> y", False, (1, "<a>")),
        ("x<a>b<c>y", False, (1, "<a>b<c>")),
        ("x<a>", False, (1, "")),  # may become the longer one
        ("x<a>b<", False, (1, "")),
        ("x<a>b<d", False, (1, "<a>")),
        ("x<a>b<", True, (1, "<a>")),
        ("x<", False, (1, "")),
        ("x<", True, (2, "")),
        ("[x]<a>", False, (0, "[x]")),
        ("[[x", False, (1, "")),
        ("<<a>!", False, (1, "<a>")),
    ],
)
def test_the_first_marker_is_found_and_only_what_may_become_one_is_held(text: str, final: bool, found: tuple[int, str]):
    assert MARKERS.find(text, final=final) == found


def test_text_without_a_markers_first_character_is_free_of_markers():
    assert MARKERS.absent("plain > ]")
    assert not MARKERS.absent("plain <")


def test_no_markers_are_never_found():
    empty = MarkerSet([])
    assert empty.absent("<")
    assert empty.find("<a>", final=False) == (3, "")
