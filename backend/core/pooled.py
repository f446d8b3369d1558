"""Requests whose answers are numbers, not text: embeddings, scores of candidates, relevance of documents."""

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["last", "mean", "none"]
"""Which hidden states make a text's vector: that of its last token, their mean, or each one its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAsk:
    """One text, as text or as tokens.

    Attributes:
        prompt_name: Which of the model's own prompts goes before the text; empty is the model's default.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    prompt_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAsk:
    """How likely each candidate is after the prompt.

    Attributes:
        stable_bytes: Of the prompt's UTF-8, what later requests begin with too; 0 is not known.
    """

    prompt: str
    candidates: tuple[str, ...]
    stable_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankAsk:
    """How relevant each document is to the query."""

    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRequest:
    """One accepted Embedding, Score or Rerank.

    Attributes:
        tenant, priority: As in `GenerationRequest`.
        deadline: On the monotonic clock, in seconds; None is no deadline.
    """

    request_id: str
    ask: EmbedAsk | ScoreAsk | RerankAsk
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Embeddings of one text.

    Attributes:
        data: float32, little-endian, row-major, `[count, dim]`.
        per_token: One for each token, as they come from the model; else one for the text.
    """

    data: bytes
    count: int
    dim: int
    per_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token of a candidate, and its natural-log probability after all before it."""

    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Scores:
    """The tokens of each candidate, in the order of the candidates; none where it is empty."""

    candidates: tuple[tuple[ScoredToken, ...], ...]


@dataclass(frozen=True, slots=True)
class Relevances:
    """A number for each document, in the order of the documents."""

    values: tuple[float, ...]


PooledResult = Vectors | Scores | Relevances
