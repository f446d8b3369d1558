"""The number of tokens of prompt and answer that a model can attend to."""

import logging
from collections.abc import Mapping
from typing import Any

from backend.core.logline import logline

log = logging.getLogger(__name__)

# Where configurations keep it, the usual name first.
_LENGTH_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
    "model_max_length",
)
# State-space models have no limit of their own; this bounds what one request may take.
UNSTATED_CONTEXT = 32_768


def trained_context(config: Mapping[str, Any]) -> int | None:
    """The length a checkpoint's `config.json` states, or None.

    A `rope_scaling` that names the length before scaling (YaRN) extends it by its factor, unless the stated
    length is already the extended one. Multimodal configurations nest it in `text_config`.
    """
    for scope in (config, config.get("text_config")):
        if not isinstance(scope, Mapping):
            continue
        for key in _LENGTH_KEYS:
            length = scope.get(key)
            if isinstance(length, int) and not isinstance(length, bool) and length > 0:
                return max(length, _extended(scope))
    return None


def _extended(scope: Mapping[str, Any]) -> int:
    scaling = scope.get("rope_scaling") or scope.get("rope_parameters")
    if not isinstance(scaling, Mapping):
        return 0
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if not isinstance(original, int) or not isinstance(factor, int | float) or factor < 1:
        return 0
    return int(original * factor)


def served_context(config: Mapping[str, Any], asked: int | None) -> int:
    """The length to serve: `asked`, but no more than the model was trained for."""
    trained = trained_context(config)
    if asked is None:
        return trained or UNSTATED_CONTEXT
    if trained is not None and asked > trained:
        log.warning(logline("context_capped", asked=asked, trained=trained))
        return trained
    return asked
