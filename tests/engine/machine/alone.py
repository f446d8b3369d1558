"""What a model says by itself: mlx-lm's module and its own caches, without a batch, chunks, a cache, guesses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from backend.check.random_tokenizer import IM_END
from backend.core.request import Sampling
from backend.engine.quantized.kv_format import KVFormat
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from tests.straight import NO, YES

VOCAB = 272
# The tokens of several letters; all others are a character each.
WORDS = {YES: "yes", NO: "no"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A grammar of which it is known by hand what may come next: a beginning, then so many letters.

    Each character is a token, as in the tests' tokenizer, and so are two words.
    """

    begins: str
    least: int
    most: int

    @property
    def regex(self) -> str:
        """The same for the worker."""
        return f"{self.begins}[a-z]{{{self.least},{self.most}}}"


class Follows:
    """A place in a shape, as a constraint."""

    error: str | None = None

    def __init__(self, shape: Shape) -> None:
        self._shape, self._n = shape, 0

    def mask(self) -> NDArray[np.uint32]:
        """One bit a token."""
        shape, letters = self._shape, self._n - len(self._shape.begins)
        if letters < 0:
            allowed = [ord(shape.begins[self._n])]
        else:
            allowed = list(range(ord("a"), ord("z") + 1)) if letters < shape.most else []
            allowed += [token for token, word in WORDS.items() if letters + len(word) <= shape.most]
            allowed += [IM_END] if letters >= shape.least else []
        bits = np.zeros(-(-VOCAB // 32) * 32, np.uint8)
        bits[allowed] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def advance(self, token: int) -> None:
        """Past a token."""
        self._n += len(WORDS.get(token, " "))

    def forced(self, most: int) -> list[int]:
        """Nobody asks: nothing guesses here."""
        return []

    def valid(self, tokens: Sequence[int]) -> int:
        """Likewise."""
        return 0

    @property
    def finished(self) -> bool:
        """Only the end may follow."""
        return self._n - len(self._shape.begins) == self._shape.most


@dataclass(frozen=True, slots=True)
class Token:
    """One that was drawn, and its natural-log probability under the model."""

    id: int
    logprob: float


class Read:
    """What a model has read of one sequence; where rows are to hold codes, from its first token or a later one on."""

    def __init__(self, model: Any, kv: KVFormat | None) -> None:
        self._model, self._kv, self._n = model, kv, 0
        self.caches = make_prompt_cache(model)
        self._to_codes()

    def __call__(self, tokens: Sequence[int]) -> mx.array:
        """Read on; logits of each of these tokens, `[n, vocabulary]`."""
        first = self._kv.start - self._n if self._kv is not None else 0
        parts = [part for part in (tokens[: max(0, first)], tokens[max(0, first) :]) if len(part)]
        return mx.concatenate([self._part(part) for part in parts])

    def _part(self, tokens: Sequence[int]) -> mx.array:
        logits = self._model(mx.array([list(tokens)]), cache=self.caches)[0]
        self._n += len(tokens)
        self._to_codes()
        return logits

    def _to_codes(self) -> None:
        kv = self._kv
        if kv is not None and self._n == kv.start:
            self.caches = [
                cache.to_quantized(kv.group_size, kv.bits) if type(cache) is KVCache else cache for cache in self.caches
            ]


class Alone:
    """A model and what it has answered so far; an answer is computed once, as far as it was asked for."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = load_model(folder)[0]
        # As the worker does on a CPU.
        self._model.set_dtype(mx.float32)
        self._answers: dict[object, tuple[list[Token], Iterator[Token]]] = {}
        self._read: dict[object, tuple[mx.array, list[Any]]] = {}

    def read(self, tokens: Sequence[int], kv: KVFormat | None = None) -> tuple[mx.array, list[Any]]:
        """Logits of each place, `[n, vocabulary]`, and the layer caches."""
        key = (tuple(tokens), kv)
        if key not in self._read:
            read = Read(self._model, kv)
            self._read[key] = read(list(tokens)), read.caches
        return self._read[key]

    def logprobs(self, tokens: Sequence[int], start: int, kv: KVFormat | None) -> NDArray[np.float32]:
        """Of each token from `start` on, given all before it."""
        logits = self.read(tokens, kv)[0]
        logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return np.array([logprobs[place - 1, tokens[place]] for place in range(start, len(tokens))], np.float32)

    def chance(self, tokens: Sequence[int], kv: KVFormat | None) -> NDArray[np.float32]:
        """Of yes against no after all of these, `[1]`."""
        logits = np.array(self.read(tokens, kv)[0][-1])
        return np.array([1 / (1 + np.exp(logits[NO] - logits[YES]))], np.float32)

    def answer(
        self, prompt: str, sampling: Sampling, shape: Shape | None, most: int, kv: KVFormat | None = None
    ) -> list[Token]:
        """Up to `most` tokens, the one that ends the sequence among them."""
        key = (prompt, sampling, shape, kv)
        if key not in self._answers:
            self._answers[key] = [], self._drawn(prompt, sampling, shape, kv)
        known, coming = self._answers[key]
        while len(known) < most and (token := next(coming, None)) is not None:
            known.append(token)
        return known[:most]

    def _drawn(self, prompt: str, sampling: Sampling, shape: Shape | None, kv: KVFormat | None) -> Iterator[Token]:
        tokens, read = list(prompt.encode()), Read(self._model, kv)
        row = RowSampling(
            sampling,
            prompt=np.array(tokens, np.int32),
            eos_ids=frozenset([IM_END]),
            top_logprobs=0,
            constraint=None if shape is None else Follows(shape),
        )
        fed = tokens
        while True:
            logits = read(fed)[-1:]
            drawn = HostSampler().sample(logits, [row])
            (token,), (logprobs,) = drawn.tokens, drawn.logprobs
            assert logprobs is not None, drawn.errors
            row.accept(token)
            yield Token(token, logprobs.chosen)
            if token == IM_END:
                return
            fed = [token]


@cache
def alone(folder: Path) -> Alone:
    """The one of a directory."""
    return Alone(folder)
