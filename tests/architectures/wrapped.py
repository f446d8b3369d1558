"""Configurations: the language part of models that also see, where it is another module's architecture."""

from typing import Any

from tests.architectures.sizes import EXPERTS

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"text_config": {}},
    "qwen3_vl": {"text_config": {}},
    "qwen3_vl_moe": {"text_config": EXPERTS},
}
