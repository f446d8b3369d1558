"""One line an event."""

import logging
import sys

import pytest

from backend.core.logline import logline
from backend.process.log import LineFormatter, last_words


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


def test_last_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    last_words("it\nended")
    assert capsys.readouterr().err == "mlx-worker: it ended\n"
