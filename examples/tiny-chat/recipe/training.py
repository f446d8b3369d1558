"""The training loop: two half batches a step, each on a thread of its own."""

import argparse
import math
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import mlx.core as mx
from batches import Batch, batches
from fast_forward import weighted_loss
from mlx import nn, optimizers
from mlx.utils import tree_map
from mlx_lm.models.qwen3 import Model

WARM_UP = 100


class HalfStep:
    """Loss and gradients of half a batch. Used by one pool thread at a time; owns a replica of the model."""

    def __init__(self, replica: Model) -> None:
        self._model = replica
        self._gradient = nn.value_and_grad(replica, weighted_loss)

    def __call__(self, parameters: dict[str, Any], batch: Batch, total: float) -> tuple[mx.array, dict[str, Any]]:
        self._model.update(parameters)
        loss, gradients = self._gradient(self._model, mx.array(batch.tokens), mx.array(batch.weights / total))
        # Evaluate here: an unevaluated array belongs to this thread's stream.
        mx.eval(loss, gradients)
        return loss, gradients


def rate_share(progress: float, step: int) -> float:
    """Of the highest learning rate: linear warm-up, then a cosine down to a fiftieth; `progress` is in [0, 1]."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * cosine)


def train(model: Model, tokenizer: Any, options: argparse.Namespace) -> None:
    """Train in place for `options.steps` steps or `options.minutes`, whichever ends first."""
    optimizer = optimizers.AdamW(learning_rate=options.rate, betas=[0.9, 0.98], weight_decay=0.05, bias_correction=True)
    halves = [HalfStep(Model(model.args)) for _ in range(2)]
    source = batches(Random(options.seed + 1), tokenizer, options.tokens)
    started, seen, mean = time.monotonic(), 0, 0.0
    with ThreadPoolExecutor(len(halves)) as pool:
        for step, pair in zip(range(options.steps), source, strict=False):
            spent = (time.monotonic() - started) / (60 * options.minutes)
            if spent >= 1:
                break
            optimizer.learning_rate = options.rate * rate_share(max(step / options.steps, spent), step)
            total = float(sum(batch.weights[:, 1:].sum() for batch in pair))
            running = [pool.submit(h, model.parameters(), b, total) for h, b in zip(halves, pair, strict=True)]
            (loss, gradients), (other_loss, other_gradients) = (future.result() for future in running)
            gradients, _ = optimizers.clip_grad_norm(tree_map(mx.add, gradients, other_gradients), 1.0)
            optimizer.update(model, gradients)
            mx.eval(model.parameters(), optimizer.state)
            mean += (loss.item() + other_loss.item() - mean) * (0.05 if step else 1.0)
            seen += sum(batch.tokens.size for batch in pair)
            if step % 100 == 0:
                seconds = time.monotonic() - started
                print(
                    f"step={step} loss={mean:.3f} seconds={seconds:.0f} tokens_per_s={seen / seconds:.0f}",
                    flush=True,
                )
