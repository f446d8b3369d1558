"""Configurations: attention over compressed latents (MLA), with and without sparse selection of keys."""

from typing import Any

from tests.architectures.sizes import EXPERTS, LATENT, WINDOW

_INDEX = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 24}
_LONGCAT = LATENT | {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 128,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "num_layers": 2,
    "routed_scaling_factor": 1.5,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.7}
_MISTRAL_4_ROPE = {
    "rope_theta": 10000.0,
    "rope_type": "yarn",
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 64,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v2": EXPERTS | LATENT | {"topk_method": "greedy", "rope_scaling": _YARN},
    "deepseek_v3": EXPERTS | LATENT,
    "deepseek_v32": EXPERTS | LATENT | _INDEX,
    "deepseek_v41": EXPERTS
    | {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "o_groups": 2,
        "o_lora_rank": 16,
        "scoring_func": "sqrtsoftplus",
        "sliding_window": WINDOW,
        "compress_ratios": [0, 4, 4, 4],
        "kv_source_layer_ids": [1, 3],
        "index_source_layer_ids": [1, 3],
        "candidate_source_layer_id": 1,
        "candidate_topk_blocks": 2,
        "candidate_block_size": 4,
        "index_n_heads": 2,
        "index_head_dim": 32,
        "index_topk": 8,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 3,
    },
    "glm4_moe_lite": EXPERTS | LATENT,
    "glm_moe_dsa": EXPERTS | LATENT | _INDEX | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": _LONGCAT | {"ngram_vocab_size_ratio": 2, "emb_neighbor_num": 4, "emb_split_num": 2},
    "minicpm3": LATENT
    | {
        "dim_model_base": 32,
        "scale_depth": 1.4,
        "scale_emb": 2.0,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [1.5] * 4,
            "original_max_position_embeddings": 256,
        },
    },
    "mistral4": EXPERTS | LATENT | {"rope_parameters": _MISTRAL_4_ROPE},
    "youtu_llm": LATENT,
    "kimi_vl": {"text_config": EXPERTS | LATENT},
    "kimi_k25": {"text_config": EXPERTS | LATENT},
}
