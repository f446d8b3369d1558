"""What a group of rows of its own costs a decode step, against the padding that it spares. Pure.

Two groups in place of one read the weights once more in every step; one in place of two pads its shorter rows to the
longest. Which is dearer depends on the device:

- A CPU reads padding like any other KV, and copies it when rows join or leave. A group may hold as much padding as
  the weights that a further group reads again, but no large part of the budget.
- CUDA reads padding too, and a further group costs the host a launch of every kernel of every layer once more, and
  the weights again: a group may hold what attention reads in that time.
- Metal's attention over one token a row skips the keys that are masked: padding costs memory and nothing else.

On GPUs this allows more than their memory should go to, so all padding together is bound by a share of the budget.
Of experts only those that are taken count as weights (`backend/engine/loading/step_bytes.py`).
"""

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["cpu", "metal", "cuda"]

# Of the budget, what padding of one group may take on a CPU.
CPU_GROUP_SHARE = 1 / 32
# Of the budget, what all padding may take on a GPU. Not measured: chosen, so that the prompt cache has room beside it.
GPU_PADDING_SHARE = 1 / 4
# On an H100 an 8B model of 4 bits takes 8.8 ms a step for one row, 35.5 ms for eight; one of them with 8,192 tokens
# among 256 makes that 55.7 ms in one group, 43.3 ms in two. So attention reads masked keys at 3 to 4.4e11 bytes a
# second, and a further group costs some 5 ms: weights, and about twelve launches a layer. Other cards: not measured.
CUDA_PADDING_BYTES_PER_SECOND = 4e11
CUDA_WEIGHTS_BYTES_PER_SECOND = 1.5e12
CUDA_LAYER_SECONDS = 60e-6
CUDA_GROUP_SECONDS = 500e-6


@dataclass(frozen=True, slots=True)
class PaddingBounds:
    """Bytes of padding.

    Attributes:
        group: Of one group; a row that would make it more opens another.
        total: Of all groups together.
    """

    group: int
    total: int


def padding_bounds(kind: DeviceKind, *, step_bytes: int, layers: int, budget: int) -> PaddingBounds:
    """The padding that is cheaper than another group.

    Args:
        step_bytes: Weights that a step of one row reads.
        layers: Of the model, for the launches that a group costs.
        budget: Bytes of KV in all.
    """
    if kind == "cpu":
        return PaddingBounds(group=min(step_bytes, int(budget * CPU_GROUP_SHARE)), total=budget)
    total = int(budget * GPU_PADDING_SHARE)
    if kind == "metal":
        return PaddingBounds(group=total, total=total)
    seconds = CUDA_GROUP_SECONDS + layers * CUDA_LAYER_SECONDS + step_bytes / CUDA_WEIGHTS_BYTES_PER_SECOND
    return PaddingBounds(group=min(total, int(seconds * CUDA_PADDING_BYTES_PER_SECOND)), total=total)
