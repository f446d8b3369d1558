"""Render jobs and their results as frames."""

from dataclasses import asdict, fields
from typing import Any

from backend.confined.frames import pack
from backend.prompt.rendering import Probe, Rendered, RenderJob

# That the process which renders may take; both ends of the frames hold to it.
MEMORY_BYTES = 1 << 30


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
