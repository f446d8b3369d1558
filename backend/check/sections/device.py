"""Facts: the device, its memory, versions, and the model."""

import platform

from backend.check.section import Section
from backend.engine.batching.session import Session


async def run(section: Section) -> None:
    """Tell what runs where."""
    subject = section.subject
    info = subject.handle.info()
    facts = subject.facts
    section.figure("device", info.device, note=await subject.on_engine(_device))
    section.figure(
        "versions", _versions(info.details), note=f"Python {platform.python_version()}, {platform.platform()}"
    )
    if info.blas:
        section.figure("BLAS", info.blas, note="of MLX on a CPU")
    section.figure("memory", info.details.get("device_memory", ""), note=f"KV budget {_mib(facts.budget_bytes)}")
    wired = info.details.get("wired_limit", "")
    if wired:
        section.figure("wired limit", wired)
    else:
        section.skip("wired limit", "this device has none")
    section.figure("weights", facts.weight_bytes / (1 << 20), "MiB", facts.dtype)
    section.figure("KV", facts.kv_bytes_a_token / (1 << 10), "KiB a token")
    section.figure("mode", info.mode, note=facts.serial_reason or facts.uncached_reason)


def _device(session: Session) -> str:
    import mlx.core as mx

    del session
    return ", ".join(f"{name} {value}" for name, value in sorted(mx.device_info().items()))


def _versions(details: object) -> str:
    assert isinstance(details, dict)
    return ", ".join(
        f"{name} {details[name]}" for name in ("mlx", "mlx-lm", "transformers", "llguidance") if name in details
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
