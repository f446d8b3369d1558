"""Configurations: mixtures of experts over attention that keeps every token."""

from typing import Any

from tests.architectures.sizes import EXPERTS, HIDDEN, VOCAB, WINDOW

CONFIGS: dict[str, dict[str, Any]] = {
    "Klear": EXPERTS,
    "bailing_moe": EXPERTS | {"topk_group": 1, "use_qk_norm": True},
    "dbrx": {
        "d_model": HIDDEN,
        "n_layers": 2,
        "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek": EXPERTS,
    "dots1": EXPERTS,
    "ernie4_5_moe": {
        "use_bias": False,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_layer_start_index": 1,
        "moe_intermediate_size": 32,
        "moe_num_shared_experts": 1,
    },
    "glm4_moe": EXPERTS | {"use_qk_norm": True, "partial_rotary_factor": 0.5},
    "granitemoe": EXPERTS
    | {
        "logits_scaling": 0.5,
        "attention_multiplier": 0.25,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
    },
    "hunyuan": EXPERTS
    | {
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    },
    "minimax": EXPERTS | {"shared_intermediate_size": 64, "rotary_dim": 8},
    "minimax_m3_vl": {
        "text_config": EXPERTS
        | {
            "num_hidden_layers": 3,
            "dense_intermediate_size": 128,
            "shared_intermediate_size": 32,
            "partial_rotary_factor": 0.5,
            "moe_layer_freq": [0, 1, 1],
            "sparse_attention_config": {
                "sparse_num_index_heads": 2,
                "sparse_index_dim": 16,
                "sparse_block_size": 16,
                "sparse_topk_blocks": 3,
                "sparse_local_block": 1,
                "sparse_attention_freq": [0, 1, 1],
            },
        }
    },
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "phimoe": EXPERTS
    | {
        "original_max_position_embeddings": 256,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [1.5] * 8,
            "short_mscale": 1.0,
            "long_mscale": 1.1,
        },
    },
    "phixtral": {
        "num_vocab": VOCAB,
        "model_dim": HIDDEN,
        "num_heads": 4,
        "num_layers": 2,
        "rotary_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "solar_open": EXPERTS | {"partial_rotary_factor": 1.0},
    "exaone_moe": EXPERTS
    | {
        "layer_types": ["sliding_attention", "full_attention"],
        "is_moe_layer": [False, True],
        "sliding_window": WINDOW,
    },
}
