"""One line an event."""

import json
import logging
import sys
from typing import Any

import pytest

from backend.core.logline import MAX_VALUE, logline
from backend.process.log import MAX_LINE, JsonFormatter, LineFormatter


def formatted(message: str, form: type[logging.Formatter] = LineFormatter, **record: object) -> str:
    made = logging.makeLogRecord(
        {"name": "backend.x", "msg": message, "levelname": "INFO", "created": 0.0, "msecs": 0.0, **record}
    )
    return form().format(made)


def parsed(message: str, **record: object) -> dict[str, Any]:
    line = formatted(message, JsonFormatter, **record)
    assert "\n" not in line and len(line) <= MAX_LINE
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_as_json_an_event_has_its_fields_as_they_are() -> None:
    line = logline("ready", n=1, ms=0.12345, ok=True, text='a "b"\n\ud800', none=None, bad=float("inf"))
    assert parsed(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "logger": "backend.x",
        "event": "ready",
        "n": 1,
        "ms": 0.123,
        "ok": True,
        "text": 'a "b"\n\ud800',
        "bad": "inf",
    }


def test_as_json_what_a_library_says_is_text_and_an_error_its_kind_and_place() -> None:
    assert parsed("a %s", args=("b",)) | {"event": "logged", "text": "a b"} == parsed("a %s", args=("b",))
    try:
        raise ValueError("the prompt was: secret")
    except ValueError:
        said = parsed(logline("fault"), exc_info=sys.exc_info())
    assert said["error"].startswith("ValueError at test_log.py:") and "secret" not in str(said)


def test_as_json_a_line_stays_one_object_however_long_its_values_are() -> None:
    values = {f"v{index}": "\U0001f600" * 5000 for index in range(12)}
    said = parsed(logline("e", count=3, **values))
    assert said["count"] == 3 and all(said[key].startswith("\U0001f600") for key in values)


def test_the_last_words_are_a_sentence_as_text_and_an_event_as_json() -> None:
    assert LineFormatter().last_words("stopped") == "mlx-worker: stopped"
    said = json.loads(JsonFormatter().last_words("stopped"))
    assert (said["event"], said["level"], said["text"]) == ("ended", "critical", "stopped")


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
