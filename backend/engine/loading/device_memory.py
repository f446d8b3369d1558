"""The device's memory: the share for a model and its KV, and the part that the system must keep in place."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from backend.core.logline import logline
from backend.engine.loading.failures import one_line
from backend.engine.loading.machine_memory import machine_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """What one worker may use.

    Attributes:
        total: Bytes for weights, KV and everything else; 0 where a device does not say.
        source: What the figure was taken from.
        wirable: Bytes that the device lets a process wire at most; 0 where there is no such thing.
    """

    total: int
    source: str
    wirable: int = 0


def device_memory(info: Mapping[str, Any], *, is_cpu: bool, active: int, share: float = 1.0) -> DeviceMemory:
    """What the device says that there is, as far as it is ours.

    On a GPU the host's memory is never taken for the device's: a budget of hundreds of gigabytes on a card of
    sixteen ends in a failed step.

    Args:
        info: `mx.device_info()`. Metal's has a recommended working set, CUDA's the total and the free memory.
        active: Bytes that this process has on the device already, which `free_memory` therefore lacks.
        share: Of it, what is ours, where several workers live on one device.
    """
    recommended = int(info.get("max_recommended_working_set_size") or 0)
    total, free = int(info.get("total_memory") or 0), info.get("free_memory")
    if is_cpu:
        found = DeviceMemory(total=machine_memory(), source="memory of the machine or its container")
    elif recommended:
        found = DeviceMemory(total=recommended, source="recommended working set", wirable=recommended)
    elif total and free is not None:
        found = DeviceMemory(total=min(total, int(free) + active), source="free memory of the device")
    elif total:
        found = DeviceMemory(total=total, source="memory of the device")
    else:
        found = DeviceMemory(total=0, source="a device that does not say how much it has")
    if share == 1.0:
        return found
    return DeviceMemory(
        total=int(found.total * share),
        source=f"{share:g} of {found.source}",
        wirable=int(found.wirable * share),
    )


def wired_limit(asked: int | None, *, memory: DeviceMemory, wanted: int) -> int:
    """Bytes to wire: what was asked for, or (None) what weights and KV want, within what the device allows.

    Wired memory is not paged out: without it a model near the limit is read from swap in every step. Wiring more than
    the recommended working set has frozen machines.
    """
    return min(wanted if asked is None else asked, memory.wirable)


def wire(limit: int, set_limit: Callable[[int], int]) -> Callable[[], object]:
    """Wire `limit` bytes; what is returned restores the limit that was. Failure costs speed, and is a warning.

    Args:
        set_limit: `mx.set_wired_limit`: takes bytes and gives those of before.
    """
    if limit <= 0:
        return lambda: None
    try:
        before = set_limit(limit)
    # macOS 14 and older, or a limit above the system's own.
    except Exception as error:  # noqa: BLE001
        log.warning(logline("wired_limit_failed", bytes=limit, error=one_line(error)))
        return lambda: None
    log.info(logline("wired_limit", bytes=limit, before=before))
    return partial(set_limit, before)


def bound_pool(limit: int, set_limit: Callable[[int], int]) -> Callable[[], object]:
    """Let MLX keep `limit` bytes of freed buffers, or fewer where it does so; what is returned restores the limit.

    Clearing the pool now and then instead would take from each step the buffers that the next one asks for.

    Args:
        set_limit: `mx.set_cache_limit`: takes bytes and gives those of before.
    """
    if limit <= 0:  # of a device that does not say what it has
        return lambda: None
    before = set_limit(limit)
    if before < limit:
        set_limit(before)
    return partial(set_limit, before)
