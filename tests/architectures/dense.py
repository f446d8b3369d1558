"""Configurations: transformers whose layers keep every token and have one feed-forward block each."""

from typing import Any

from tests.architectures.sizes import CONTEXT, HIDDEN, VOCAB, WINDOW

_GPT = {"n_embd": HIDDEN, "n_head": 4, "n_layer": 2, "n_positions": CONTEXT, "n_ctx": CONTEXT, "n_inner": 128}
_GRANITE = {
    "logits_scaling": 0.5,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
}
_LLAMA_4_ROPE = {
    "rope_theta": 10000.0,
    "rope_type": "default",
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 64,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "afm7": {
        "hidden_dim": HIDDEN,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "hidden_dim_scale_factor": 2.0,
    },
    "apertus": {"post_norm": False, "qk_norm": True},
    "bitnet": {},
    "cohere": {"use_qk_norm": True},
    "ernie4_5": {"use_bias": False},
    "exaone": {"num_layers": 2},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 16},
    "glm": {},
    "glm4": {"partial_rotary_factor": 0.5},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.5},
    "gptj": _GPT | {"rotary_dim": 8},
    "granite": _GRANITE,
    "helium": {},
    "hunyuan_v1_dense": {"rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}},
    "internlm2": {},
    "internlm3": {},
    "lille-130m": {"block_size": CONTEXT, "n_embd": HIDDEN, "n_head": 4, "n_kv_heads": 2, "n_layer": 2},
    "llama": {},
    "llama4_text": {"intermediate_size_mlp": 128, "no_rope_layers": [1, 0], "use_qk_norm": True},
    "mimo": {},
    "minicpm": {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 2.0},
    "ministral3": {
        "num_hidden_layers": 4,
        "rope_parameters": _LLAMA_4_ROPE,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": WINDOW,
    },
    "nanbeige": {"num_loops": 2},
    "nanochat": {},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "num_hidden_layers": 3,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"replace_with_linear": True}},
            {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 1.0}},
        ],
    },
    "olmo": {"d_model": HIDDEN, "n_layers": 2, "mlp_hidden_size": 128, "n_heads": 4, "embedding_size": VOCAB},
    "olmo2": {},
    "openelm": {
        "num_transformer_layers": 2,
        "model_dim": HIDDEN,
        "ffn_dim_divisor": 16,
        "num_query_heads": [4, 8],
        "num_kv_heads": [2, 4],
        "ffn_multipliers": [1.0, 2.0],
    },
    "phi": {},
    "phi3": {},
    "phi3small": {
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 128,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        # It bans tokens by their ids in its own vocabulary, whatever the configuration says.
        "vocab_size": 100_352,
        "blocksparse_vert_stride": 2,
    },
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 16},
    "qwen2": {},
    "qwen3": {},
    "seed_oss": {},
    "smollm3": {"num_hidden_layers": 4},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "starcoder2": {"norm_epsilon": 1e-5},
    "talkie": {},
    "telechat3": {},
}
