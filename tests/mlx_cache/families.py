"""Tiny random-weight models of every cache family of mlx-lm, made on demand."""

# ruff: noqa: C408

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

VOCAB = 97
WINDOW = 32

_LLAMA = dict(
    hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
    rms_norm_eps=1e-5, vocab_size=VOCAB,
)  # fmt: skip
_MLA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
    kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8, first_k_dense_replace=1,
)  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": dict(model_type="llama", **_LLAMA),
    "qwen3": dict(
        model_type="qwen3", head_dim=8, max_position_embeddings=4096, tie_word_embeddings=False, rope_theta=1e4,
        **_LLAMA,
    ),
    "gemma3_text": dict(
        model_type="gemma3_text", **(_LLAMA | dict(num_hidden_layers=3, num_key_value_heads=1)), head_dim=8,
        query_pre_attn_scalar=8, sliding_window=WINDOW, sliding_window_pattern=3,
    ),
    "gpt_oss": dict(
        model_type="gpt_oss", num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, vocab_size=VOCAB,
        hidden_size=32, intermediate_size=32, head_dim=8, num_attention_heads=4, num_key_value_heads=2,
        sliding_window=WINDOW, rope_theta=10000,
    ),
    "qwen3_next": dict(
        model_type="qwen3_next", **(_LLAMA | dict(num_hidden_layers=4)), linear_num_value_heads=2,
        linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4,
        num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1, shared_expert_intermediate_size=16,
        mlp_only_layers=[], moe_intermediate_size=16, rope_theta=1e4, partial_rotary_factor=0.5,
        max_position_embeddings=4096, head_dim=8,
    ),
    "jamba": dict(
        model_type="jamba", **(_LLAMA | dict(num_hidden_layers=4)), attn_layer_offset=1, attn_layer_period=2,
        expert_layer_offset=1, expert_layer_period=2, mamba_d_conv=4, mamba_d_state=8, mamba_expand=2,
        num_experts=4, num_experts_per_tok=2, max_position_embeddings=4096,
    ),
    "falcon_h1": dict(
        model_type="falcon_h1", hidden_size=32, head_dim=8, intermediate_size=48, mamba_d_head=8, mamba_d_ssm=32,
        mamba_d_state=8, mamba_n_heads=4, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2,
        vocab_size=VOCAB,
    ),
    "lfm2": dict(
        model_type="lfm2", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, norm_eps=1e-5, conv_bias=False, conv_L_cache=3,
        block_dim=32, block_multiple_of=8, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
        block_ff_dim=48, full_attn_idxs=[1],
    ),
    "mamba2": dict(
        model_type="mamba2", num_heads=8, head_dim=8, vocab_size=VOCAB, hidden_size=32, intermediate_size=64,
        state_size=8, num_hidden_layers=2, layer_norm_epsilon=1e-5, conv_kernel=4, n_groups=1, use_bias=False,
        use_conv_bias=True, tie_word_embeddings=True, time_step_limit=(0.0, 100.0), time_step_rank="auto",
    ),
    "llama4": dict(
        model_type="llama4",
        text_config=dict(
            model_type="llama4_text", attention_bias=False, attention_chunk_size=WINDOW, head_dim=8, hidden_size=32,
            interleave_moe_layer_step=2, intermediate_size=48, intermediate_size_mlp=48,
            max_position_embeddings=4096, num_attention_heads=4, num_experts_per_tok=1, num_hidden_layers=4,
            num_key_value_heads=2, num_local_experts=2, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=1e4,
            use_qk_norm=True, vocab_size=VOCAB,
        ),
    ),
    "deepseek_v3": dict(model_type="deepseek_v3", **_MLA),
    "deepseek_v32": dict(model_type="deepseek_v32", index_head_dim=8, index_n_heads=2, index_topk=16, **_MLA),
    "baichuan_m1": dict(
        model_type="baichuan_m1", vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rope_theta=1e4, sliding_window=WINDOW,
        sliding_window_layers=[0], conv_window=2, rms_norm_eps=1e-5,
    ),
    "recurrent_gemma": dict(
        model_type="recurrent_gemma", attention_bias=False, conv1d_width=4, hidden_size=32, intermediate_size=48,
        logits_soft_cap=30.0, num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=1, rms_norm_eps=1e-5,
        rope_theta=1e4, attention_window_size=WINDOW, vocab_size=VOCAB,
        block_types=["recurrent", "recurrent", "attention"],
    ),
}  # fmt: skip

ANYWHERE = ("llama", "qwen3", "deepseek_v3", "deepseek_v32")
"""Families that can be cut after any token."""


@cache
def model(family: str) -> Any:
    """A model with random weights, evaluated."""
    config = FAMILIES[family]
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(7)
    made = module.Model(module.ModelArgs.from_dict(config))
    made.update(tree_map(lambda p: p + 0.05 * mx.random.normal(p.shape).astype(p.dtype), made.parameters()))
    mx.eval(made.parameters())
    return made


def prompt(n: int, seed: int = 0) -> NDArray[np.int32]:
    """Random token ids."""
    return np.random.default_rng(seed).integers(1, VOCAB, n).astype(np.int32)


def run(made: Any, tokens: NDArray[np.int32], caches: list[Any]) -> mx.array:
    """One forward pass; the logits of every position, float32, evaluated."""
    logits = made(mx.array(tokens)[None], cache=caches)[0].astype(mx.float32)
    mx.eval(logits, [c.state for c in caches if not c.empty()])
    return logits


def run_in_chunks(
    made: Any, tokens: NDArray[np.int32], caches: list[Any], chunk: int, at: Callable[[int], None] = lambda n: None
) -> mx.array:
    """A prefill in chunks that ends with the logits of the last position; `at(n)` is called after each chunk."""
    logits = mx.zeros(0)
    for start in range(0, len(tokens), chunk):
        logits = run(made, tokens[start : start + chunk], caches)[-1]
        at(min(start + chunk, len(tokens)))
    return logits
