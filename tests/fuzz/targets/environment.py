"""The Jinja environment, in this process: whatever a template does, its failure is a sentence."""

from typing import Any

from backend.prompt.rendering import RenderJob, render_job
from backend.prompt.template_environment import failure_reason, template_render
from tests.fuzz.target import Broken, Target
from tests.fuzz.targets.templates import SOURCES, change_template

MAX_BYTES = 1 << 16
_MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, None]}}}]},
]
# Those that go on for ever are for the process that can be killed.
_ENDLESS = ("10**", "f(n")


def template_environment() -> Target:
    """A template's source; what it raises is told in a line, and what it takes is bounded by the process alone."""
    seeds = [source.encode("utf-8", "replace") for source in SOURCES if not any(sign in source for sign in _ENDLESS)]
    return Target(run=_render, seeds=seeds, change=change_template, seconds=60.0, memory=1 << 30)


def _render(data: bytes) -> None:
    source = data.decode("utf-8", "replace")
    if any(sign in source for sign in (*_ENDLESS, "99999", "range", "lipsum")):
        return
    try:
        render = template_render(source, {"tools": None, "bos_token": "<s>"}, MAX_BYTES)
        render_job(render, RenderJob(source, _MESSAGES, max_bytes=MAX_BYTES))
    except Exception as error:
        reason = failure_reason(error)
        if "\n" in reason or len(reason) > 500:
            raise Broken("a reason of several lines", reason) from error
