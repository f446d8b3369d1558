"""Render jobs and results through their frames."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backend.confined.frames import LENGTH
from backend.prompt import frames
from backend.prompt.rendering import Probe, Rendered, RenderJob

TEXT = st.text(st.characters(exclude_categories=()))
CALL = {"type": "function", "function": {"name": "f", "arguments": {"n": 3, "t": "x"}}}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": TEXT, "content": TEXT}, optional={"name": TEXT, "thinking": TEXT, "tool_calls": st.just([CALL])}
    )
)


@given(MESSAGES, TEXT)
def test_a_job_survives_the_way(messages: list[dict[str, Any]], text: str) -> None:
    job = RenderJob("{{ a }}", messages, {"tools": [text, 1]}, True, [Probe(1, messages, True)], 7, 0.5)
    there = frames.job_from(frames.job_frame(job)[LENGTH.size :])
    assert there == job
    assert [list(message) for message in there.messages] == [list(message) for message in messages]


@given(TEXT, st.lists(st.none() | st.integers(0, 9)))
def test_a_result_survives_the_way(text: str, shared: list[int | None]) -> None:
    rendered = Rendered(text, tuple(shared))
    assert frames.rendered_from(memoryview(frames.rendered_frame(rendered))[LENGTH.size :]) == rendered


def test_a_failure_survives_the_way() -> None:
    assert frames.rendered_from(frames.failure_frame("why\ud800")[LENGTH.size :]) == "why\ud800"


def test_line_ends_take_no_more_room_than_letters() -> None:
    def size(text: str) -> int:
        return len(frames.job_frame(RenderJob("", [{"role": "user", "content": text * 1000}])))

    assert size("\n") == size("\x01") == size("a")
