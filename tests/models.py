"""Tiny models with random weights, in Hugging Face layout, for tests and benchmarks.

Each is built from mlx-lm's own class of its architecture, so it loads the way a real checkpoint does. Weights
are drawn per tensor from (seed, position), with a scale that makes the text vary instead of repeating a token.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.check.random_tokenizer import IM_END, write_tokenizer

LOGIT_SCALE = 3.0

# Families by what their caches are; the value is what the family adds to or changes in `_plain`.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window_pattern": 2, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 150000, "sliding_window": 64},
    "qwen3_next": _EXPERTS
    | {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        # The gated-delta kernel works on heads of 32 and more.
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "partial_rotary_factor": 0.5,
        "full_attention_interval": 2,
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "lm_head_multiplier": 1.0,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": "auto",
    },
    "qwen3_moe": _EXPERTS | {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4": {
        "attention_bias": False,
        "attention_chunk_size": 64,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 128,
        "num_experts_per_tok": 1,
        "num_local_experts": 2,
        "rope_scaling": None,
        "use_qk_norm": False,
    },
}
FAMILIES = tuple(_FAMILIES)
# One of each kind of cache: whole, sliding window, recurrent state beside it.
QUICK_FAMILIES = ("qwen3", "gemma3_text", "qwen3_next")


def _plain(family: str, *, vocab: int, hidden: int, layers: int, context: int) -> dict[str, Any]:
    return {
        "model_type": family,
        "architectures": ["RandomForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": max(hidden // 4, 16),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": context,
        # Tied weights make a random model repeat its last token.
        "tie_word_embeddings": False,
        "eos_token_id": IM_END,
    }


def model_config(
    family: str,
    *,
    vocab: int = 272,
    hidden: int = 64,
    layers: int = 2,
    context: int = 4096,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A `config.json` of the family; `extra` overrides single entries."""
    config = _plain(family, vocab=vocab, hidden=hidden, layers=layers, context=context) | _FAMILIES[family]
    config |= extra or {}
    if family == "llama4":
        # Every fourth layer attends globally, and mlx-lm takes for granted that there is one.
        config["num_hidden_layers"] = max(layers, 4)
        return {"model_type": family, "text_config": config, "eos_token_id": IM_END}
    return config


def write_model(
    folder: Path,
    family: str = "qwen3",
    *,
    vocab: int = 272,
    hidden: int = 64,
    layers: int = 2,
    context: int = 4096,
    seed: int = 0,
    dtype: str = "float32",
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a loadable model directory and return it.

    Args:
        vocab: Tokens of the tokenizer and width of the logits, at least `LEAST_VOCAB`.
        dtype: Of every floating-point tensor in the file.
        extra: Overrides entries of config.json.
    """
    config = model_config(family, vocab=vocab, hidden=hidden, layers=layers, context=context, extra=extra)
    write_checkpoint(folder, config, seed=seed, dtype=dtype)
    write_tokenizer(folder, vocab)
    return folder


def write_deeper(folder: Path, shallow: Path, *, layers: int) -> Path:
    """A llama or qwen3 that says what the one in `shallow` says, and takes as long as so many layers more take.

    What the further layers give is zero. So the shallow one is a draft model that is always right.
    """
    import mlx.core as mx

    config = json.loads((shallow / "config.json").read_text())
    has = config["num_hidden_layers"]
    write_checkpoint(folder, config | {"num_hidden_layers": has + layers})
    load: Any = mx.load  # what it gives depends on the file
    weights: dict[str, Any] = load(str(folder / "model.safetensors")) | load(str(shallow / "model.safetensors"))
    for name, array in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")) and int(name.split(".")[2]) >= has:
            weights[name] = mx.zeros_like(array)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    write_tokenizer(folder, config["vocab_size"])
    return folder


def write_checkpoint(folder: Path, config: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> None:
    """Write config.json and random weights of the model that mlx-lm makes of `config`."""
    # Imported here so that a test module may choose its BLAS before MLX loads.
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    folder.mkdir(parents=True, exist_ok=True)
    # Before the classes see it: some change what they are given.
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}, indent=1))
    model_class, args_class = _get_classes(config)
    # Some classes draw what they begin with, and that stays.
    mx.random.seed(seed)
    model = model_class(args_class.from_dict(config))
    cast = getattr(mx, dtype)
    weights: dict[str, Any] = {}
    for position, (name, array) in enumerate(tree_flatten(model.parameters())):
        drawn = _drawn(name, array, mx.random.split(mx.random.key(seed), position + 2)[position])
        weights[name] = drawn.astype(cast) if mx.issubdtype(drawn.dtype, mx.floating) else drawn
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


def _drawn(name: str, array: Any, key: Any) -> Any:
    import mlx.core as mx

    if name.endswith(("A_log", ".D", "dt_bias", ".signs")) or "norm" in name or array.ndim == 0:
        return array
    if not mx.issubdtype(array.dtype, mx.floating):
        return mx.random.randint(0, 2**31 - 1, array.shape, key=key).astype(array.dtype)
    noise = mx.random.normal(array.shape, key=key)
    if array.ndim == 1:
        return 0.1 * noise
    if "embed" in name:
        return noise
    scale = LOGIT_SCALE if "lm_head" in name else 1.0
    if "conv1d" in name:
        return noise / math.sqrt(array.shape[1])
    return noise * (scale / math.sqrt(array.shape[-1]))


def plain_kv_model(folder: Path, *, vocab: int = 32_000, hidden: int = 512, layers: int = 8, seed: int = 0) -> Path:
    """A Llama of about 3 million parameters a layer at the default width, with a 16k context, for benchmarks."""
    return write_model(folder, "llama", vocab=vocab, hidden=hidden, layers=layers, context=16_384, seed=seed)
