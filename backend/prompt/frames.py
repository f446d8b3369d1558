"""Render jobs and their results as frames: a frame of JSON without the long texts, then the texts.

JSON would escape them, which for megabytes of line ends takes a tenth of a second in one call.
"""

from dataclasses import asdict, fields
from typing import Any

from backend.confined.frames import LENGTH, pack, unpack
from backend.core.errors import InternalFault
from backend.core.utf8 import text_of, utf8_slices
from backend.prompt.rendering import Probe, Rendered, RenderJob

# That the process which renders may take; both ends of the frames hold to it.
MEMORY_BYTES = 1 << 30


def job_frame(job: RenderJob) -> bytes:
    """A job, packed."""
    texts: list[str] = []
    messages = [_without_texts(message, texts) for message in job.messages]
    # Not `asdict`, which copies every value of every message.
    probes = [asdict(probe) for probe in job.probes]
    head = {**{f.name: getattr(job, f.name) for f in fields(job)}, "messages": messages, "probes": probes}
    return _frame(head, "".join(texts))


def job_from(body: bytes) -> RenderJob:
    """The job that `job_frame` packed."""
    value, text = _head_and_text(body)
    messages: list[dict[str, Any]] = []
    at = 0
    for lengths in value["messages"]:
        message = dict(lengths)
        for key, length in lengths.items():
            if isinstance(length, int):
                message[key] = text[at : at + length]
                at += length
        messages.append(message)
    value |= {"messages": messages, "probes": [Probe(**probe) for probe in value["probes"]]}
    return RenderJob(**value)


def rendered_frame(rendered: Rendered) -> bytes:
    """A result, packed."""
    return _frame({"shared": rendered.shared}, rendered.text)


def failure_frame(reason: str) -> bytes:
    """What is sent in place of a result."""
    return _frame({"error": reason}, "")


def fault_frame(reason: str) -> bytes:
    """What is sent in place of a result where neither the job nor the template is to blame."""
    return _frame({"fault": reason}, "")


def rendered_from(body: bytes | memoryview) -> Rendered | str:
    """The result that the render process packed, or the reason why there is none.

    Raises:
        InternalFault: Neither the job nor the template is to blame.
    """
    value, text = _head_and_text(body)
    if "fault" in value:
        raise InternalFault(f"the chat template cannot be rendered: {value['fault']}")
    return value["error"] if "error" in value else Rendered(text, tuple(value["shared"]))


def _without_texts(message: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """The message with lengths in place of its texts, which are added to `texts`. It has no numbers of its own."""
    texts.extend(value for value in message.values() if isinstance(value, str))
    return {key: len(value) if isinstance(value, str) else value for key, value in message.items()}


def _frame(head: dict[str, Any], text: str) -> bytes:
    parts = [pack(head), *utf8_slices(text)]
    return b"".join([LENGTH.pack(sum(map(len, parts))), *parts])


def _head_and_text(body: bytes | memoryview) -> tuple[dict[str, Any], str]:
    view = memoryview(body)
    end = LENGTH.size + LENGTH.unpack_from(view)[0]
    return unpack(bytes(view[LENGTH.size : end])), text_of(view[end:])
