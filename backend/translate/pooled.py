"""The wire of Embedding, Score and Rerank into core's words and back."""

from collections.abc import Mapping

from backend.core.errors import InvalidRequest
from backend.core.events import Usage
from backend.core.pooled import EmbedAsk, PooledRequest, Relevances, RerankAsk, ScoreAsk, ScoredToken, Scores, Vectors
from backend.pb import backend_pb2 as pb
from backend.translate.cache_scope import tenant_of
from backend.translate.requests import priority_of

_EMBEDDINGS = pb.EmbeddingResult.DESCRIPTOR.fields_by_name["embeddings"].number
_LENGTH_DELIMITED = 2


def embedding_request(wire: pb.PredictOptions, *, request_id: str, deadline: float | None) -> PooledRequest:
    """One text to embed.

    Raises:
        InvalidRequest: There is none, or it is given twice.
    """
    text, tokens = wire.Embeddings, tuple(wire.EmbeddingTokens)
    if text and tokens:
        raise InvalidRequest("EmbeddingTokens", "is given beside Embeddings; one of them is wanted")
    if not text and not tokens:
        raise InvalidRequest("Embeddings", "is empty, and so is EmbeddingTokens")
    ask = EmbedAsk(text=text, tokens=tokens, prompt_name=wire.Metadata.get("embedding_prompt", ""))
    return _request(ask, wire.Metadata, request_id, deadline)


def score_request(
    wire: pb.ScoreRequest, metadata: Mapping[str, str], *, request_id: str, deadline: float | None
) -> PooledRequest:
    """Candidates to score.

    Args:
        metadata: Of the call; the message has no place for `cache_salt` and `priority`.

    Raises:
        InvalidRequest: There is none, or a number is negative.
    """
    if not wire.candidates:
        raise InvalidRequest("candidates", "is empty")
    if wire.stable_prefix_len < 0:
        raise InvalidRequest("stable_prefix_len", f"must not be negative, is {wire.stable_prefix_len}")
    ask = ScoreAsk(prompt=wire.prompt, candidates=tuple(wire.candidates), stable_bytes=wire.stable_prefix_len)
    return _request(ask, metadata, request_id, deadline)


def rerank_request(
    wire: pb.RerankRequest, metadata: Mapping[str, str], *, request_id: str, deadline: float | None
) -> PooledRequest:
    """Documents to rank; `metadata` as in `score_request`.

    Raises:
        InvalidRequest: The query or a document is empty, there is none, or `top_n` is negative.
    """
    if not wire.query.strip():
        raise InvalidRequest("query", "is empty")
    if not wire.documents:
        raise InvalidRequest("documents", "is empty")
    for index, document in enumerate(wire.documents):
        if not document.strip():
            raise InvalidRequest(f"documents[{index}]", "is empty")
    if wire.top_n < 0:
        raise InvalidRequest("top_n", f"must not be negative, is {wire.top_n}")
    ask = RerankAsk(query=wire.query, documents=tuple(wire.documents))
    return _request(ask, metadata, request_id, deadline)


def _request(
    ask: EmbedAsk | ScoreAsk | RerankAsk, metadata: Mapping[str, str], request_id: str, deadline: float | None
) -> PooledRequest:
    return PooledRequest(
        request_id=request_id,
        ask=ask,
        tenant=tenant_of(metadata),
        priority=priority_of(metadata),
        deadline=deadline,
    )


def embedding_result(vectors: Vectors, usage: Usage) -> pb.EmbeddingResult:
    """Vectors as hosts check them."""
    # Wire bytes, since numbers of Python would take ten times their size.
    packed = _varint(_EMBEDDINGS << 3 | _LENGTH_DELIMITED) + _varint(len(vectors.data)) + vectors.data
    result = pb.EmbeddingResult.FromString(packed)
    result.tokens, result.dim, result.prompt_tokens = vectors.count, vectors.dim, usage.prompt_tokens
    result.layout = pb.EMBEDDING_LAYOUT_PER_TOKEN if vectors.per_token else pb.EMBEDDING_LAYOUT_FINAL
    return result


def score_response(wire: pb.ScoreRequest, scores: Scores) -> pb.ScoreResponse:
    """One entry a candidate, in their order."""
    return pb.ScoreResponse(candidates=[_candidate(wire, tokens) for tokens in scores.candidates])


def rerank_result(wire: pb.RerankRequest, relevances: Relevances, usage: Usage) -> pb.RerankResult:
    """The best documents first, equal ones in their order; `top_n` of them, 0 is all."""
    values = relevances.values
    order = sorted(range(len(values)), key=lambda index: -values[index])
    results = [
        pb.DocumentResult(index=index, text=wire.documents[index], relevance_score=values[index])
        for index in order[: wire.top_n or None]
    ]
    count = min(usage.prompt_tokens, 2**31 - 1)
    return pb.RerankResult(usage=pb.Usage(total_tokens=count, prompt_tokens=count), results=results)


def _candidate(wire: pb.ScoreRequest, tokens: tuple[ScoredToken, ...]) -> pb.CandidateScore:
    total = sum(token.logprob for token in tokens)
    score = pb.CandidateScore(log_prob=total, num_tokens=len(tokens))
    if wire.length_normalize and tokens:
        score.length_normalized_log_prob = total / len(tokens)
    if wire.include_token_logprobs:
        score.tokens.extend(
            pb.TokenLogProb(token=token.token.decode("utf-8", "replace"), log_prob=token.logprob) for token in tokens
        )
    return score


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
