import logging
from typing import Any

import pytest

from backend.engine.loading.context import UNSTATED_CONTEXT, served_context, trained_context


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 8192}}, 8192),
        ({}, None),
        ({"max_position_embeddings": 0}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": "4096"}, None),
        ({"text_config": "none"}, None),
        # Qwen 2.5 with YaRN states the length before scaling.
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        # Llama 3.1 and DeepSeek state it after scaling.
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 1e6}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": "odd"}, 4096),
    ],
)
def test_the_trained_length_is_what_the_configuration_states(config: dict[str, Any], expected: int | None) -> None:
    assert trained_context(config) == expected


def test_a_shorter_length_is_served_as_asked_and_a_longer_one_capped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = {"max_position_embeddings": 4096}
    assert served_context(config, None) == 4096
    assert served_context(config, 1000) == 1000
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert served_context(config, 5000) == 4096
    assert "asked=5000 trained=4096" in caplog.text


def test_a_model_that_states_no_length_serves_what_is_asked() -> None:
    assert served_context({}, 100_000) == 100_000
    assert served_context({}, None) == UNSTATED_CONTEXT
