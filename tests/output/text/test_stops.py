"""Stop strings: none of one is ever sent, and nothing is held that cannot become one."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from backend.output.text.stops import StopScanner


def scan(parts: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    sent = "".join(scanner.push(part) for part in parts)
    return sent + scanner.finish(), scanner.stopped


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """By definition: the shortest beginning of the text that ends in a stop string, less the longest one there."""
    for end in range(1, len(text) + 1):
        matched = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if matched:
            return text[: end - max(matched)], True
    return text, False


few = st.text(alphabet="ab\u00e9", max_size=30)
stop_sets = st.lists(st.text(alphabet="ab\u00e9", min_size=1, max_size=6), min_size=1, max_size=5).map(tuple)


@given(st.lists(few, max_size=8), stop_sets)
def test_the_answer_ends_before_the_first_stop_string_however_it_is_cut(parts: list[str], stops: tuple[str, ...]):
    assert scan(parts, stops) == expected("".join(parts), stops)


@given(few, stop_sets)
def test_text_is_held_only_while_it_can_become_a_stop_string(text: str, stops: tuple[str, ...]):
    scanner = StopScanner(stops)
    sent = "".join(map(scanner.push, text))
    if not scanner.stopped:
        held = max(
            (n for n in range(len(text) + 1) for stop in stops if n < len(stop) and text.endswith(stop[:n])), default=0
        )
        assert sent == text[: len(text) - held]


def test_of_two_stop_strings_the_one_that_ends_first_wins():
    assert scan(["xabcdy"], ("abcd", "bc")) == ("xa", True)


def test_of_two_that_end_together_the_one_that_starts_first_wins():
    assert scan(["xabcy"], ("bc", "abc")) == ("x", True)


def test_a_stop_string_may_overlap_its_own_beginning():
    assert scan(["aa", "ab"], ("aab",)) == ("a", True)


def test_every_stop_string_of_two_letters_is_found_in_every_text_where_it_is():
    texts = ["".join(letters) for letters in itertools.product("ab", repeat=10)]
    for letters in itertools.product("ab", repeat=7):
        stop = "".join(letters)
        for text in texts:
            before, found, _ = text.partition(stop)
            assert scan([text], (stop,)) == (before, bool(found))


def test_text_after_a_stop_string_is_dropped():
    scanner = StopScanner(("b",))
    assert [scanner.push(part) for part in ("ab", "c", "d")] == ["a", "", ""]


def test_a_long_stop_string_costs_nothing_before_it_is_nearly_met():
    stops = tuple("x" + "y" * 4000 + chr(0x4E00 + i) for i in range(64))
    assert scan(["abc" * 1000, "xy", "z"], stops) == ("abc" * 1000 + "xyz", False)
