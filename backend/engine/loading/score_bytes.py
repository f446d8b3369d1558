"""The matrices of scores, which attention over codes holds whole; attention over numbers has kernels without them."""

from collections.abc import Mapping
from typing import Any

# How configurations call the number of query heads.
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "attention_heads")
# Where none of those is there: what large models have at most.
_MANY_HEADS = 128


def score_bytes(config: Mapping[str, Any], dtype_bytes: int) -> int:
    """Bytes of the scores of one query token against one key token in one layer, all heads together."""
    nested = config.get("text_config")
    for scope in (config, nested if isinstance(nested, Mapping) else {}):
        heads = [scope[name] for name in _HEADS if type(scope.get(name)) is int and scope[name] > 0]
        if heads:
            return max(heads) * dtype_bytes
    return _MANY_HEADS * dtype_bytes
