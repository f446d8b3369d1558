"""What MLX computes on. A program: argument is the BLAS option; one JSON object on standard output."""

import json
import sys

from backend.core.logline import bounded
from backend.engine.loading.blas import BlasNotFound, load_blas
from backend.engine.loading.failures import FOREIGN, one_line


def look(blas: str) -> dict[str, object]:
    """Device, BLAS and memory, or why there is none."""
    try:
        # First: it must come before anything that imports MLX.
        running = load_blas(blas)
    except BlasNotFound as error:
        return {"blas_error": str(error)}
    import mlx.core as mx

    from backend.engine.batching.device_share import KV_SHARE, device_kind
    from backend.engine.loading.device_memory import device_memory
    from backend.engine.loading.model import device_name

    kind = device_kind()
    # The device may be there and not work: a driver that is too old shows at the first kernel.
    product = mx.ones((64, 64)) @ mx.ones((64, 64))
    if product.sum().item() != 64.0**3:
        return {"error": "a matrix product is wrong"}
    memory = device_memory(mx.device_info(), is_cpu=kind == "cpu", active=0)
    return {
        "device": device_name(),
        "kind": kind,
        "blas": running,
        "memory": memory.total,
        "memory_source": memory.source,
        "kv_share": KV_SHARE,
        "mlx_at": str(mx.__file__),
    }


def main() -> None:
    """Look, and say."""
    try:
        found = look(sys.argv[1])
    except FOREIGN as error:
        found = {"error": bounded(one_line(error), 300)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
