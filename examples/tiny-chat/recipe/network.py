"""The network of tiny-chat: mlx-lm's own Qwen3 class, small, so that what is trained is what is served."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.qwen3 import Model, ModelArgs

CONTEXT = 8192


def network_config(vocab_size: int, eos_ids: list[int], pad_id: int) -> dict[str, Any]:
    """config.json of a Qwen3 with 1.5 million parameters."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": vocab_size,
        "eos_token_id": eos_ids,
        "pad_token_id": pad_id,
    }


def build_network(config: dict[str, Any], seed: int) -> Model:
    """A freshly initialised float32 model; matrices start at a standard deviation of 0.02 to 0.05."""
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config))
    residual = (2 * config["num_hidden_layers"]) ** -0.5

    def start(path: str, value: mx.array) -> mx.array:
        if value.ndim != 2:
            return value
        scale = 0.02 if "embed" in path else value.shape[1] ** -0.5
        if path.endswith(("o_proj.weight", "down_proj.weight")):
            scale *= residual
        return mx.random.normal(value.shape) * scale

    parameters: Any = tree_flatten(model.parameters())
    model.load_weights([(path, start(path, value)) for path, value in parameters])
    mx.eval(model.parameters())
    return model


def read_network(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model in float32, and its configuration, as `write_network` left them."""
    config = json.loads((folder / "config.json").read_text())
    model = Model(ModelArgs.from_dict(config))
    weights: Any = mx.load(str(folder / "model.safetensors"))
    model.load_weights([(path, value.astype(mx.float32)) for path, value in weights.items()])
    mx.eval(model.parameters())
    return model, config


def write_network(model: Model, config: dict[str, Any], folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors in float16."""
    half = tree_map(lambda value: value.astype(mx.float16), model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(half)), {"format": "mlx"})
    generation = {
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
        "do_sample": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
