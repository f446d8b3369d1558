"""How far the logprobs of one request may differ with its company."""

import sys
from collections.abc import Mapping

# MLX's reference BLAS adds in one order whatever the number of rows. Accelerate and Metal, which every Mac has, do not.
LEAST = 0.0 if sys.platform == "linux" else 1e-3


def tolerance(family: str, within: Mapping[str, float] | None = None) -> float:
    """What `within` says of the family, and no less than this machine's arithmetic allows."""
    return max(LEAST, (within or {}).get(family, 0.0))
