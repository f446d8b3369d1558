"""Configurations: sliding windows and chunks, most of them between layers that keep every token."""

from typing import Any

from tests.architectures.sizes import EXPERTS, WINDOW

_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_ROPES = {"sliding_attention": _ROPE, "full_attention": _ROPE | {"rope_theta": 100000.0}}
_FOUR = {"num_hidden_layers": 4, "layer_types": _ALTERNATING, "sliding_window": WINDOW}
_GEMMA_3N = _FOUR | {
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 272,
    "rope_local_base_freq": 10000.0,
    "final_logit_softcapping": 30.0,
    "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
    "hidden_size_per_layer_input": 16,
    "altup_num_inputs": 2,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 8,
}
_GEMMA_4 = _FOUR | {
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 272,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 16,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "afmoe": EXPERTS | _FOUR | {"num_dense_layers": 1},
    "cohere2": {"num_hidden_layers": 4, "sliding_window": WINDOW, "sliding_window_pattern": 2},
    "exaone4": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "sliding_window_pattern": "LG",
        "layer_types": _ALTERNATING,
        "rope_scaling": {"rope_type": "default"},
    },
    "gemma3_text": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    },
    "gemma3": {
        "text_config": {
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 16,
        }
    },
    "gemma3n": {"text_config": _GEMMA_3N},
    "gemma4_text": _GEMMA_4,
    "gemma4": {"text_config": _GEMMA_4},
    "gpt_oss": EXPERTS | _FOUR,
    "iquestloopcoder": {"loop_num": 2, "loop_window_size": WINDOW},
    "laguna": EXPERTS | _FOUR | {"rope_parameters": _ROPES},
    "llama4": {
        "text_config": {
            "num_hidden_layers": 4,
            "attention_chunk_size": WINDOW,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 128,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "use_qk_norm": True,
        }
    },
    "mellum": EXPERTS | _FOUR | {"rope_parameters": _ROPES},
    "mimo_v2_flash": EXPERTS
    | {
        "num_hidden_layers": 4,
        "hybrid_layer_pattern": [0, 1, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": WINDOW,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "v_head_dim": 16,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
        "partial_rotary_factor": 0.5,
    },
    "muse_glimmer": _FOUR,
    "muse_spark": {
        "text_config": EXPERTS
        | _FOUR
        | {
            "post_norm_eps": 1e-8,
            "rope_parameters": _ROPE,
            "layer_rope_theta": [10000.0, 0.0, 10000.0, 0.0],
            "final_logit_softcapping": 20.0,
            "output_multiplier": 0.5,
            "moe_hidden_size": 32,
            "num_shared_experts": 0,
        },
        "audio_config": {"out_hidden_size": 64},
    },
    "olmo3": _FOUR,
    "plamo3": {"num_hidden_layers": 4, "window_size": WINDOW, "sliding_window_pattern": 2},
    "spark2_5": _FOUR | {"rope_parameters": _ROPES},
    "step3p5": EXPERTS
    | _FOUR
    | {
        "num_attention_groups": 2,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 32,
        "moe_layers_enum": "1,2,3",
    },
    "mistral3": {"text_config": {"model_type": "llama"} | _FOUR},
    "pixtral": {"text_config": {"model_type": "llama"}},
}
