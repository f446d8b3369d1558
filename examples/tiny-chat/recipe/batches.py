"""Examples as rows of token ids with a weight for each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from corpus import draw_example
from corpus.example import Chat, Example
from numpy.typing import NDArray
from tokenizer import TURN_END

# Learning the prompts a little helps the model to read them; the answers are what counts.
PROMPT_WEIGHT = 0.03
# An answer of this many tokens counts as one of a token a piece; longer ones count less a token, so that a few
# stories do not drown many one-word facts.
USUAL_ANSWER = 10
LONGEST = 512


@dataclass(frozen=True)
class Batch:
    """tokens: int32 [rows, length], padded at the end; weights: float32 [rows, length], 0 on padding."""

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]


def split_text(example: Example, tokenizer: Any) -> tuple[str, str]:
    """The prompt exactly as a server would send it, and the answer up to and with the end of the turn."""
    if not isinstance(example, Chat):
        return example.prompt, example.answer + TURN_END
    settings = {
        "tools": list(example.tools) or None,
        "tokenize": False,
        "enable_thinking": example.thinking,
    }
    prompt = tokenizer.apply_chat_template(list(example.messages[:-1]), add_generation_prompt=True, **settings)
    whole = tokenizer.apply_chat_template(list(example.messages), **settings)
    if not whole.startswith(prompt):
        raise ValueError(f"the template changes the prompt once it is answered: {prompt!r} and {whole!r}")
    return prompt, whole[len(prompt) :].rstrip("\n")


def draw_rows(rng: Random, tokenizer: Any, count: int) -> list[tuple[list[int], int]]:
    """`count` examples as (token ids, length of the prompt), none longer than LONGEST."""
    pairs = [split_text(draw_example(rng), tokenizer) for _ in range(count)]
    prompts = tokenizer([p for p, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([a for _, a in pairs], add_special_tokens=False)["input_ids"]
    rows = [(p + a, len(p)) for p, a in zip(prompts, answers, strict=True)]
    return [row for row in rows if len(row[0]) <= LONGEST]


def batches(rng: Random, tokenizer: Any, tokens_a_batch: int) -> Iterator[tuple[Batch, Batch]]:
    """Endless pairs of batches of about `tokens_a_batch` tokens each, rows of like length together."""
    while True:
        rows = sorted(draw_rows(rng, tokenizer, 2048), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], int]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > tokens_a_batch:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for first, second in zip(groups[::2], groups[1::2], strict=False):
            yield _pad(first), _pad(second)


def _pad(rows: list[tuple[list[int], int]]) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    tokens = np.zeros((len(rows), length), np.int32)
    weights = np.zeros((len(rows), length), np.float32)
    for i, (ids, prompt) in enumerate(rows):
        tokens[i, : len(ids)] = ids
        weights[i, :prompt] = PROMPT_WEIGHT
        weights[i, prompt : len(ids)] = min(1.0, (USUAL_ANSWER / (len(ids) - prompt)) ** 0.5)
    return Batch(tokens, weights)
