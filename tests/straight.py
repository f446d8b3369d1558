"""What a model gives when it is called by itself: the numbers that embeddings, scores and ranks are held against."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

YES, NO = 263, 264


class Straight:
    """A model of mlx-lm without anything around it: no cache, no batch, no chunks."""

    def __init__(self, folder: Path) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load_model

        self.model, _ = load_model(folder)
        # As the worker does on a CPU.
        self.model.set_dtype(mx.float32)

    def hidden(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Hidden states before the head, `[n, width]`."""
        import mlx.core as mx

        inner = self.model.language_model.model if "language_model" in self.model else self.model
        backbone = inner.backbone if "backbone" in inner else inner.model if "model" in inner else inner
        return np.array(backbone(mx.array([list(tokens)]))[0].astype(mx.float32))

    def vector(self, tokens: Sequence[int], pooling: str = "last") -> NDArray[np.float32]:
        """A text's embedding at length 1."""
        hidden = self.hidden(tokens)
        pooled = hidden[-1] if pooling == "last" else hidden.mean(axis=0)
        return pooled / np.linalg.norm(pooled)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """Logits at every place, `[n, vocabulary]`."""
        import mlx.core as mx

        return np.array(self.model(mx.array([list(tokens)]))[0].astype(mx.float32)).astype(np.float64)

    def logprobs(self, tokens: Sequence[int], start: int) -> list[float]:
        """Of each token from `start` on, given all before it."""
        logits = self.logits(tokens)
        logits -= logits.max(axis=-1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return [float(logprobs[place - 1, tokens[place]]) for place in range(start, len(tokens))]

    def chance(self, tokens: Sequence[int], yes: int = YES, no: int = NO) -> float:
        """Of one token against another after all of these."""
        logits = self.logits(tokens)[-1]
        return float(1 / (1 + np.exp(logits[no] - logits[yes])))


def with_yes_and_no(folder: Path) -> Path:
    """Make two fillers of a byte-level tokenizer the words `yes` and `no`."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    for token, word in ((YES, "yes"), (NO, "no")) if "yes" not in vocab else ():
        vocab[word] = vocab.pop(f"\u0120w{token}")
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": token, "content": word, **flags, "single_word": True})
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
