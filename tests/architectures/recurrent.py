"""Configurations: states that replace or join attention (Mamba, RWKV, gated delta, linear attention, convolutions)."""

from typing import Any

from tests.architectures.sizes import EXPERTS, GATED_DELTA, LATENT, MAMBA, WINDOW

_BAILING_LINEAR = EXPERTS | {"num_hidden_layers": 4, "layer_group_size": 2, "group_norm_size": 1}
_KDA = {
    "num_hidden_layers": 4,
    "linear_attn_config": {
        "kda_layers": [1, 3],
        "full_attn_layers": [2, 4],
        "num_heads": 2,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
    },
    "num_experts_per_token": 2,
}
_LFM2 = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_multiple_of": 16,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
_PACKED = "model.layers.1.mlp.down_proj"
_QWEN35 = GATED_DELTA | {"num_hidden_layers": 4, "rope_parameters": None, "partial_rotary_factor": 0.5}

CONFIGS: dict[str, dict[str, Any]] = {
    "baichuan_m1": {"sliding_window": WINDOW, "sliding_window_layers": [1], "conv_window": 2},
    "bailing_hybrid": _BAILING_LINEAR | LATENT,
    "bailing_moe_linear": _BAILING_LINEAR,
    "bailing_moe_v3": EXPERTS
    | LATENT
    | {
        "num_hidden_layers": 4,
        "layer_group_size": 2,
        "head_dim": 32,
        "moe_shared_expert_intermediate_size": 32,
    },
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 1.0},
    "gear": {
        "num_hidden_layers": 4,
        "layer_types": ["conv_mixer", "sliding_attention", "conv_mixer", "full_attention"],
        "sliding_window": WINDOW,
        "conv_L_cache": 3,
    },
    "granitemoehybrid": EXPERTS
    | MAMBA
    | {
        "logits_scaling": 0.5,
        "attention_multiplier": 0.25,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 64,
    },
    "jamba": EXPERTS
    | MAMBA
    | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": EXPERTS | LATENT | _KDA | {"model_max_length": 4096, "head_dim": 24},
    "kimi_k3": {
        "text_config": EXPERTS
        | LATENT
        | _KDA
        | {"activation_situ_beta": 1.0, "activation_situ_linear_beta": 1.0, "attn_res_block_size": 2}
    },
    "lfm2": _LFM2,
    "lfm2-vl": {"text_config": _LFM2},
    "lfm2_moe": EXPERTS | _LFM2 | {"use_expert_bias": True, "num_dense_layers": 1},
    "mamba": MAMBA | {"intermediate_size": 128, "time_step_rank": 4},
    "mamba2": MAMBA | {"num_heads": 8},
    "nemotron_h": EXPERTS
    | MAMBA
    | {"layers_block_type": ["mamba", "attention", "moe", "mamba", "mlp"], "moe_shared_expert_intermediate_size": 32},
    "olmo_hybrid": GATED_DELTA
    | {"layer_types": ["linear_attention", "full_attention"], "linear_allow_neg_eigval": True},
    "plamo2": MAMBA
    | {"num_hidden_layers": 4, "hidden_size_per_head": 16, "attention_window_size": WINDOW, "mamba_step": 2},
    "prism_hadamard_qwen35": {
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [{"path": _PACKED, "embedding": False, "dtype": "float16", "block": 512}],
        "text_config": _QWEN35 | {"intermediate_size": 512},
    },
    "qwen3_5": {"text_config": _QWEN35},
    "qwen3_5_moe": {"text_config": EXPERTS | _QWEN35},
    "qwen3_next": EXPERTS | GATED_DELTA | {"partial_rotary_factor": 0.5},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv7": {
        "head_dim": 32,
        "a_low_rank_dim": 16,
        "v_low_rank_dim": 16,
        "gate_low_rank_dim": 16,
        "decay_low_rank_dim": 16,
    },
}
