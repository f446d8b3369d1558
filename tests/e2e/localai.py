"""What LocalAI makes of a model's YAML: `ModelOptions` as its loader fills them, and what it adds to a request.

Written from its behaviour at commit 82c191afa, for the backend name `mlx`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from backend.pb import backend_pb2 as pb

UNSET_CONTEXT = 4096
# What a request gets where neither it nor the YAML says anything; top-k stays 0 for the names of MLX.
SAMPLING = {"temperature": 0.9, "top_p": 0.95, "top_k": 0, "min_p": 0.0, "max_tokens": 0}
READ = {
    "backend", "context_size", "draft_model", "embeddings", "n_draft", "name",
    "options", "parameters", "reasoning", "reranking", "template"
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """A model's YAML; only keys that are understood here."""
    config = yaml.safe_load(path.read_text())
    assert set(config) <= READ, set(config) - READ
    return config


def model_options(config: Mapping[str, Any], models: Path) -> pb.ModelOptions:
    """LoadModel's message."""
    model = config["parameters"]["model"]
    return pb.ModelOptions(
        Model=model,
        ModelFile=str(models / model),
        ModelPath=str(models),
        ContextSize=config.get("context_size", UNSET_CONTEXT),
        Options=config.get("options", []),
        NBatch=512,
        MMap=True,
        NGPULayers=99_999_999,
        FlashAttention="auto",
        Threads=4,
        Seed=-1,
        Embeddings=config.get("embeddings", False),
        Reranking=config.get("reranking", False),
        # A hub id too.
        DraftModel=str(models / config["draft_model"]) if "draft_model" in config else "",
    )


def request(config: Mapping[str, Any], text: str, **fields: Any) -> pb.PredictOptions:
    """What `/v1/chat/completions` sends for one user message."""
    sampling = {**SAMPLING, **{key: value for key, value in config["parameters"].items() if key != "model"}}
    thinking = config.get("reasoning", {}).get("disable")
    metadata = {} if thinking is None else {"enable_thinking": str(not thinking).lower()}
    templated = config["template"]["use_tokenizer_template"]
    return pb.PredictOptions(
        **{
            "Messages": [pb.Message(role="user", content=text)] if templated else [],
            "Prompt": "" if templated else text,
            "UseTokenizerTemplate": templated,
            "Temperature": sampling["temperature"],
            "TopP": sampling["top_p"],
            "TopK": sampling["top_k"],
            "MinP": sampling["min_p"],
            "Tokens": sampling["max_tokens"],
            "Seed": 1,
            "PromptCacheAll": True,
            "ModelIdentity": config["parameters"]["model"],
            "Metadata": metadata,
            "NDraft": config.get("n_draft", 0),
            **fields,
        }
    )
