"""Messages between the worker and its render process: eight bytes of length, then JSON.

JSON and not pickle: what comes back from a process that ran an untrusted template is only ever data.
"""

import json
import struct
from dataclasses import asdict, fields
from typing import Any, BinaryIO

from backend.prompt.rendering import Probe, Rendered, RenderJob

LENGTH = struct.Struct(">Q")


def pack(value: dict[str, Any]) -> bytes:
    """A frame. Lone surrogates, which JSON escapes can bring in, survive the way."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The value of a frame's body."""
    return json.loads(body.decode("utf-8", "surrogatepass"))


def read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """The next frame's value, or None at the end of the stream. Blocks."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    return unpack(body) if len(body) == length else None


def job_frame(job: RenderJob) -> bytes:
    """A job, packed."""
    # Not `asdict`, which copies every value of every message.
    probes = [asdict(probe) for probe in job.probes]
    return pack({**{f.name: getattr(job, f.name) for f in fields(job)}, "probes": probes})


def job_from(value: dict[str, Any]) -> RenderJob:
    """The job that `job_frame` packed."""
    arguments: dict[str, Any] = {**value, "probes": [Probe(**probe) for probe in value["probes"]]}
    return RenderJob(**arguments)


def rendered_from(value: dict[str, Any]) -> Rendered:
    """The result that the render process packed."""
    return Rendered(value["text"], tuple(value["shared"]))
