"""What config.json says of a model, held against the shapes of its weights, before anything is made of it.

mlx-lm makes as many layers and experts as the configuration says, and only then looks at the weights: a number that
cannot be would take time and memory without end. What is wrong by a little is left to mlx-lm, which names it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.core.errors import ModelLoadFailed

# Some configurations count two for each layer, and some widths are of parts that a checkpoint has left out.
_SLACK = 8
LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "num_transformer_layers",
    "num_kv_reuse_layers",
    "num_kv_shared_layers",
    "num_nextn_predict_layers",
    # No layers, and no shape says how many: each multiplies what is made for a layer, or for a token before it.
    "num_loops",
    "loop_loss_weights",
    "emb_split_num",
    "emb_neighbor_num",
)
WIDTHS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "n_heads",
    "n_head",
    "d_model",
    "n_embd",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "o_groups",
    "altup_num_inputs",
    "ffn_hidden_size",
    "kv_n_heads",
)
_NESTED = ("text_config", "llm_config", "language_config", "ffn_config", "attn_config")
_NUMBERED = re.compile(r"(.*?\.|)(\d+)(?:\.|$)")
MOST_EOS_IDS = 4096
_BITS_TOLD = 128


@dataclass(slots=True)
class Shapes:
    """What the headers of the weight files say.

    Attributes:
        tensors: How many there are.
        blocks: Those that are numbered, by what they belong to and the first number in their names.
        largest: Of all dimensions.
    """

    tensors: int = 0
    blocks: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    largest: int = 0

    def add(self, name: str, shape: Iterable[int]) -> None:
        """One tensor more."""
        self.tensors += 1
        self.largest = max(self.largest, *shape, 0)
        if numbered := _NUMBERED.match(name):
            self.blocks.add((numbered[1], numbered[2]))


def check_numbers(file: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuse a configuration of many times the layers, or the width, that the weights have.

    Raises:
        ModelLoadFailed: Naming the file and the number.
    """
    layers = len(shapes.blocks) or shapes.tensors
    for scope in (config, *(config.get(name) for name in _NESTED)):
        if not isinstance(scope, Mapping):
            continue
        for name in (*LAYERS, *WIDTHS):
            what, most = ("layers", layers) if name in LAYERS else ("values in a dimension", shapes.largest)
            told = scope.get(name)
            if isinstance(told, list):
                told = len(told)
            # Of layers that are taken off the others, a negative number adds. What is no number at all is no less.
            if isinstance(told, int | float) and not abs(told) <= _SLACK * most:
                raise ModelLoadFailed(
                    f"{file}: {name} is {_in_words(told)}, and the weights have {most} {what} at most"
                )


def _in_words(told: float) -> str:
    # As a float, JSON's longest integers overflow; Python writes none of more than some thousand digits in decimal.
    if isinstance(told, float):
        return f"{told:.15g}"
    return str(told) if told.bit_length() < _BITS_TOLD else f"a number of {told.bit_length()} bits"


def check_eos_ids(file: Path, ids: object) -> None:
    """Refuse a list of ends of answers that is none.

    Raises:
        ModelLoadFailed: Naming the file.
    """
    if not isinstance(ids, list):
        return
    if len(ids) > MOST_EOS_IDS:
        raise ModelLoadFailed(f"{file}: eos_token_id lists {len(ids)} tokens, and at most {MOST_EOS_IDS} are taken")
    if not all(isinstance(one, int) for one in ids):
        raise ModelLoadFailed(f"{file}: eos_token_id lists what is no token's number")
