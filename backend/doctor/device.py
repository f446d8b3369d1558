"""The device, its BLAS and its memory."""

import shutil
from collections.abc import Mapping
from typing import Any

from backend.doctor.finding import Row, bad, ok, warn
from backend.doctor.programs import NotKnown, ask
from backend.terminal.showing import percent, size

_OPENBLAS = "Install OpenBLAS (apt-get install libopenblas0-pthread): matrix products are 14 times faster, and more."


def look(blas: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What MLX computes on, as a process of its own sees it; `error` where it does not run."""
    try:
        return ask("device_process", blas, environment=environment)
    except NotKnown as why:
        return {"error": str(why)}


def rows(found: Mapping[str, Any], *, platform: str, has_nvidia: bool | None = None) -> list[Row]:
    """The device's rows."""
    if "blas_error" in found:
        return [bad("BLAS", found["blas_error"], "Take --blas auto, or name a library that is there.")]
    if "error" in found:
        advice = "MLX does not run here: reinstall it (make clean, make setup), or look at the driver of the GPU."
        return [bad("device", found["error"], advice)]
    return [
        _device_row(found, shutil.which("nvidia-smi") is not None if has_nvidia is None else has_nvidia),
        _blas_row(found, platform),
        _memory_row(found),
    ]


def _device_row(found: Mapping[str, Any], has_nvidia: bool) -> Row:
    if found["kind"] == "cpu" and has_nvidia:
        advice = "There is an NVIDIA GPU, but this is MLX for CPUs: make setup-cuda, in an environment of its own."
        return warn("device", found["device"], advice)
    return ok("device", found["device"])


def _blas_row(found: Mapping[str, Any], platform: str) -> Row:
    if found["kind"] == "cpu" and platform == "linux" and found["blas"] == "reference":
        return warn("BLAS", "reference", _OPENBLAS)
    return ok("BLAS", found["blas"])


def _memory_row(found: Mapping[str, Any]) -> Row:
    total, share = found["memory"], found["kv_share"]
    if not total:
        return warn("memory", found["memory_source"], "Say how much KV there may be: --kv-bytes.")
    told = f"{size(total)} ({found['memory_source']}); {percent(share)} of what weights leave is for KV"
    return ok("memory", told)
