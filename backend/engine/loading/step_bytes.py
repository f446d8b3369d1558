"""The weights that a decode step of one row reads: all, but of experts only those that the router takes."""

from collections.abc import Mapping
from typing import Any

from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

# How configurations call the number of experts that a token is sent to.
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts", "moe_k", "top_k")


def step_bytes(model: Any, config: Mapping[str, Any]) -> int:
    """Bytes of parameters that a step of one row reads.

    An input embedding counts as read, as one that is the output's too is. Experts of a router whose choice the
    configuration does not name are all taken to be read.
    """
    modules: Any = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    chosen = _chosen(config)
    unread = 0
    for _, module in modules:
        if isinstance(module, SwitchLinear | QuantizedSwitchLinear) and chosen:
            experts = int(module.num_experts)
            unread += _nbytes(module) * max(0, experts - chosen) // experts
    return _nbytes(model) - unread


def _chosen(config: Mapping[str, Any]) -> int:
    nested = config.get("text_config")
    for scope in (config, nested if isinstance(nested, Mapping) else {}):
        for name in _CHOSEN:
            value = scope.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def _nbytes(module: Any) -> int:
    arrays: Any = tree_flatten(module.parameters())
    return sum(int(array.nbytes) for _, array in arrays)
