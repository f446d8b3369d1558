"""Figures and tables as a person reads them."""

import pytest

from backend.terminal.showing import age, figure, files, one_line, pairs, percent, printable, size, table

MIB = 1 << 20


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (927744, "906.0 KiB"),
        (MIB - 1, "1.0 MiB"),
        (1.2 * (1 << 30), "1.2 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 62, "4096.0 PiB"),
    ],
)
def test_a_size_is_in_the_largest_unit_that_it_fills(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7200, "2 h"),
        (86399, "23 h"),
        (5 * 86400, "5 d"),
        (-1, "-"),
    ],
)
def test_an_age_is_in_whole_units_and_never_is_a_dash(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_figures_are_sizes_where_their_name_says_bytes() -> None:
    assert figure("disk.bytes_read", 2 * MIB) == figure("disk.written_today", 2 * MIB) == "2.0 MiB"
    assert figure("nbytes", 5) == "5 B"
    assert figure("tokens_asked", 1234567) == "1,234,567"
    assert percent(0.3333) == "33.3 %"
    assert (files(1, 5), files(1200, MIB)) == ("1 file, 5 B", "1,200 files, 1.0 MiB")


def test_columns_are_aligned_and_lines_end_without_spaces() -> None:
    lines = table(("NAME", "TOKENS", "WHERE"), [("rules", "7", "memory"), ("a", "1,234,567", "")], right=("TOKENS",))
    assert lines == ["NAME      TOKENS  WHERE", "rules          7  memory", "a      1,234,567"]
    assert table(("NAME",), []) == ["NAME"]
    assert pairs({"name": "rules", "size": "", "in the end": "x"}) == ["name        rules", "size", "in the end  x"]


def test_wide_letters_and_marks_are_counted_by_the_columns_that_they_take() -> None:
    assert table(("N", "T"), [("全角", "1"), ("e\u0301", "2")]) == ["N     T", "全角  1", "e\u0301     2"]


def test_nothing_that_a_file_or_a_worker_says_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert one_line("two\nlines \x1b[0m") == "two lines ?[0m"
    assert table(("N",), [("\x1b",)]) == ["N", "?"]
    assert pairs({"n": "\x1b"}) == ["n  ?"]
