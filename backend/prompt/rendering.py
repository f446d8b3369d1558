"""One rendering of a conversation, with the places where other conversations would still agree with it.

Runs in the render process and, for templates that are Python functions, in the worker. Only the standard
library is imported, so that the process starts fast.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Render = Callable[[list[dict[str, Any]], bool], str]  # (messages, add_generation_prompt) -> text

PROBE_SHARE = 0.25  # of a job's time: probes only place checkpoints and may be left out

_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class TemplateFailure(Exception):
    """The template cannot render this conversation; the message is one line for the client."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Another conversation: the first `keep` messages, then `then`."""

    keep: int
    then: list[dict[str, Any]]
    add_generation_prompt: bool


@dataclass(frozen=True, slots=True)
class RenderJob:
    """What to render.

    Attributes:
        template: Jinja source; unused where the template is a function.
        variables: What the template sees besides `messages` and `add_generation_prompt`.
        continue_final: The last message is the beginning of the answer and stays open.
        probes: Conversations to compare with this one.
        max_bytes: Limit of the rendered text in UTF-8.
        seconds: Limit of wall time for everything.
        content_parts: The template takes content as a list of parts.
    """

    template: str
    messages: list[dict[str, Any]]
    variables: dict[str, Any] = field(default_factory=dict)
    continue_final: bool = False
    probes: list[Probe] = field(default_factory=list)
    max_bytes: int = 16 << 20
    seconds: float = 5.0
    content_parts: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text, and per probe how many characters of it the probe's text begins with (None: not known)."""

    text: str
    shared: tuple[int | None, ...]


def shared_prefix(left: str, right: str) -> int:
    """Length of the longest common prefix, by bisection over slices (a loop over characters is 100 times slower)."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def render_job(render: Render, job: RenderJob, clock: Callable[[], float] = time.monotonic) -> Rendered:
    """Render the conversation, then as many probes as the time allows.

    Raises:
        TemplateFailure: The conversation cannot be continued as asked.
        Exception: Whatever the template raises for the conversation itself; probes that fail are None.
    """
    started = clock()
    render = _in_parts(render) if job.content_parts else render
    text = _render_open(render, job.messages) if job.continue_final else render(job.messages, True)
    shared: list[int | None] = []
    for probe in job.probes:
        late = clock() - started > job.seconds * PROBE_SHARE
        shared.append(None if late else _compare(render, job.messages, probe, text))
    return Rendered(text, tuple(shared))


def _in_parts(render: Render) -> Render:
    def render_parts(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        return render(parts, add_generation_prompt)

    return render_parts


def _compare(render: Render, messages: list[dict[str, Any]], probe: Probe, text: str) -> int | None:
    try:
        other = render([*messages[: probe.keep], *probe.then], probe.add_generation_prompt)
    except Exception:  # noqa: BLE001  a template may refuse a made-up conversation in any way it likes
        return None
    return shared_prefix(text, other)


def _render_open(render: Render, messages: list[dict[str, Any]]) -> str:
    """Render with the last message's end cut off, found by a mark put after its content."""
    final = messages[-1]
    marked = [*messages[:-1], {**final, "content": final["content"] + _CONTINUE_TAG}]
    text = render(marked, False)
    mark = _CONTINUE_TAG.strip()
    if mark not in text or final["content"].strip() not in text:
        raise TemplateFailure("the chat template drops the final assistant message, so it cannot be continued")
    at = text.rindex(mark)
    if text[at : at + len(_CONTINUE_TAG)] == _CONTINUE_TAG:
        return text[:at]
    # The template trims messages, so it would have trimmed this one's own trailing space too.
    return text[:at].rstrip()
