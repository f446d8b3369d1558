"""One line an event."""

import logging
import sys

from backend.core.logline import MAX_VALUE, logline
from backend.process.log import MAX_LINE, LineFormatter


def formatted(message: str, **record: object) -> str:
    made = logging.makeLogRecord(
        {"name": "backend.x", "msg": message, "levelname": "INFO", "created": 0.0, "msecs": 0.0, **record}
    )
    return LineFormatter().format(made)


def test_a_line_has_time_level_and_logger_before_the_event() -> None:
    assert formatted("ready a=1") == "time=1970-01-01T00:00:00.000Z level=info logger=backend.x ready a=1"


def test_newlines_are_escaped() -> None:
    assert formatted("a\nb\r\nc").endswith("a\\nb\\r\\nc")


def test_an_error_is_its_kind_and_place_and_never_its_words() -> None:
    try:
        raise ValueError("the prompt was: secret")
    except ValueError:
        line = formatted("fault", exc_info=sys.exc_info())
    assert 'fault error="ValueError at test_log.py:' in line
    assert "secret" not in line


def test_values_are_quoted_where_they_need_it_and_none_is_left_out() -> None:
    assert logline("e", a=1, b=0.5, c="x y", d='q"', e="n\n", f=None, g="", h="\u00e9") == (
        'e a=1 b=0.500 c="x y" d="q\\"" e="n\\n" g="" h="\\xe9"'
    )


def test_a_value_that_a_client_chose_cannot_make_the_line_long() -> None:
    line = logline("load_failed", model="m" * (20 << 20), error="x y" * 1000)
    assert f"model={'m' * MAX_VALUE}...+{(20 << 20) - MAX_VALUE} " in line
    assert len(line) < 3 * MAX_VALUE


def test_a_librarys_long_line_is_cut_too() -> None:
    assert len(formatted("w" * (1 << 20))) < MAX_LINE + 100
