"""What a group of rows of its own costs a decode step, against the padding that it spares. Pure.

Two groups in place of one read the weights once more in every step; one in place of two pads its shorter rows to the
longest. Which is dearer depends on the device:

- A CPU reads padding like any other KV, and copies it when rows join or leave. A row may cause as much padding as the
  weights that a further group reads again, but no large part of the budget.
- CUDA reads padding too, and a further group costs the host a launch of every kernel of every layer once more: a row
  may cause what the device reads in that time, and the weights again.
- Metal's attention over one token a row skips the keys that are masked: padding costs memory and nothing else.

On GPUs this allows more than their memory should go to, so all padding together is bound by a share of the budget.
Of experts only those that are taken count as weights (`backend/engine/loading/step_bytes.py`).
"""

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cpu", "metal", "cuda"]

# Of the budget, what padding of one row may take on a CPU.
CPU_ROW_SHARE = 1 / 32
# Of the budget, what all padding may take on a GPU. Not measured: chosen, so that the prompt cache has room beside it.
GPU_PADDING_SHARE = 1 / 4
# Not measured: between an A100's data sheet (2.0e12) and a workstation card's (1.0e12). Less than a device has makes
# more groups than are best.
CUDA_BYTES_PER_SECOND = 1.5e12
# Not measured: about twelve kernels a layer, 5 us each to launch; sampling and the output once a group.
CUDA_LAYER_SECONDS = 60e-6
CUDA_GROUP_SECONDS = 500e-6


@dataclass(frozen=True, slots=True)
class PaddingBounds:
    """Bytes of padding.

    Attributes:
        row: What one row may cause in a group of others; more opens a group.
        total: Of all groups together.
    """

    row: int
    total: int


def padding_bounds(kind: DeviceKind, *, step_bytes: int, layers: int, budget: int) -> PaddingBounds:
    """The padding that is cheaper than another group.

    Args:
        step_bytes: Weights that a step of one row reads.
        layers: Of the model, for the launches that a group costs.
        budget: Bytes of KV in all.
    """
    if kind == "cpu":
        return PaddingBounds(row=min(step_bytes, int(budget * CPU_ROW_SHARE)), total=budget)
    total = int(budget * GPU_PADDING_SHARE)
    if kind == "metal":
        return PaddingBounds(row=total, total=total)
    launches = CUDA_GROUP_SECONDS + layers * CUDA_LAYER_SECONDS
    return PaddingBounds(row=min(total, step_bytes + int(launches * CUDA_BYTES_PER_SECOND)), total=total)
