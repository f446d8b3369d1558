"""The log's lines read back are the events that were written."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from backend.client.log_events import LogEvent, event_of, without_head
from backend.client.steps import step_of
from backend.core.logline import logline
from backend.process.log import LineFormatter


def line(event: str, **fields: object) -> str:
    record = logging.LogRecord("backend.x", logging.INFO, "", 0, logline(event, **fields), None, None)
    return LineFormatter().format(record)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=40), max_size=4))
def test_what_was_logged_is_read_back(fields: dict[str, str]) -> None:
    event = event_of(line("happened", **fields))
    assert event is not None
    assert (event.level, event.name) == ("info", "happened")
    assert event.fields == fields


def test_a_line_that_is_no_event_is_none() -> None:
    assert event_of("mlx-worker: stopped by its own fault") is None
    assert event_of("") is None
    assert without_head(line("failed", error="X")) == "failed error=X"


def told(event: str, **fields: object) -> str:
    found = event_of(line(event, **fields))
    assert found is not None
    step = step_of(found)
    return step.line if step is not None else ""


def test_progress_is_told_in_words() -> None:
    assert told("model_download", repository="o/n") == "downloading o/n"
    figures = {"bytes": 3 << 20, "total_bytes": 12 << 20, "bytes_per_s": float(1 << 20), "left_s": 9.0}
    assert (
        told("model_download", model="o/n", **figures) == "downloading o/n: 3.0 MiB of 12.0 MiB, 1.0 MiB/s, 9.0 s left"
    )
    assert told("model_weights", model="m", bytes=0, total_bytes=0) == "reading the weights m"
    assert (
        told("prefill", request_id="r", done=2048, of=8000, tokens_per_s=512.0, left_s=75.0)
        == "reading the prompt: 2,048 of 8,000 tokens, 512 tokens/s, 1 min 15 s left"
    )
    assert told("answered") == ""
    assert LogEvent("info", "x", {"n": "many"}).number("n") == 0
