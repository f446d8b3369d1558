"""A rank whose waits for the device fail on order: `python -m tests.ranks.faulty_rank ORDERS [the worker's arguments]`.

ORDERS is a file. Once it is there with a number N, the N-th wait from then on raises after what it waited for is there.
"""

import sys
from pathlib import Path
from typing import Any

from backend.__main__ import main


class PlantedError(Exception):
    """What a device might report."""


def plant(orders: Path) -> None:
    """Put faulty waits in the place of the engine's."""
    from backend.engine import waits

    evaluate, left = waits.evaluate, 0

    def faulty(*arrays: Any) -> None:
        nonlocal left
        evaluate(*arrays)
        if not left and orders.exists():
            left = int(orders.read_text())
            orders.unlink()
        if left:
            left -= 1
            if not left:
                raise PlantedError("planted at a wait")

    waits.evaluate = faulty


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
    main(sys.argv[2:])
