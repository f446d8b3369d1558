"""Render jobs and their results as frames."""

from dataclasses import asdict
from typing import Any

from backend.confined.frames import pack
from backend.prompt.rendering import Probe, Rendered, RenderJob


def job_frame(job: RenderJob) -> bytes:
    """A job, packed."""
    return pack(asdict(job))


def job_from(value: dict[str, Any]) -> RenderJob:
    """The job that `job_frame` packed."""
    fields: dict[str, Any] = {**value, "probes": [Probe(**probe) for probe in value["probes"]]}
    return RenderJob(**fields)


def rendered_from(value: dict[str, Any]) -> Rendered:
    """The result that the render process packed."""
    return Rendered(value["text"], tuple(value["shared"]))
