"""What tiny-chat's training script is trusted to do, without training a model."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-chat" / "recipe"
MODULES = ("corpus", "batches", "fast_forward", "network", "tokenizer")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The script's own modules, which import each other by bare names as they do when it runs."""
    sys.path.insert(0, str(EXAMPLE))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def chat_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EXAMPLE.parent / "model")


def test_the_fast_forward_pass_agrees_with_the_network_that_is_served(
    modules: dict[str, ModuleType],
) -> None:
    model = modules["network"].build_network(modules["network"].network_config(64, [1], 0), seed=3)
    tokens = mx.array([[5, 9, 2, 33, 7, 9, 2], [1, 1, 8, 60, 63, 0, 4]])
    assert np.abs(np.array(modules["fast_forward"].fast_logits(model, tokens) - model(tokens))).max() < 1e-3


def test_the_fast_exponential_keeps_four_digits(modules: dict[str, ModuleType]) -> None:
    x = mx.linspace(-80, 80, 4001)
    assert np.abs(np.array(modules["fast_forward"].fast_exp(x) / mx.exp(x) - 1)).max() < 2e-4


def test_every_kind_of_example_splits_into_a_prompt_and_an_answer_that_ends(
    modules: dict[str, ModuleType], chat_tokenizer: Any
) -> None:
    rng = Random(5)
    for _ in range(400):
        prompt, answer = modules["batches"].split_text(modules["corpus"].draw_example(rng), chat_tokenizer)
        assert prompt and answer.endswith("<|im_end|>") and len(answer) > len("<|im_end|>")


def test_the_corpus_repeats_itself_under_one_seed(
    modules: dict[str, ModuleType],
) -> None:
    draw = modules["corpus"].draw_example
    first, second, other = Random(1), Random(1), Random(2)
    examples = [draw(first) for _ in range(50)]
    assert examples == [draw(second) for _ in range(50)]
    assert examples != [draw(other) for _ in range(50)]


@pytest.mark.slow
def test_padding_weighs_nothing_and_answers_weigh_more_than_prompts(
    modules: dict[str, ModuleType], chat_tokenizer: Any
) -> None:
    prompt_weight = modules["batches"].PROMPT_WEIGHT
    for batch in next(modules["batches"].batches(Random(3), chat_tokenizer, 1024)):
        assert batch.tokens.size <= 1024 and batch.tokens.shape == batch.weights.shape
        for row, tokens in zip(batch.weights, batch.tokens, strict=True):
            answer = np.flatnonzero(row > 2 * prompt_weight)
            assert row[0] == pytest.approx(prompt_weight)
            assert chat_tokenizer.decode(tokens[answer]).endswith("<|im_end|>")
            assert not row[answer[-1] + 1 :].any()
