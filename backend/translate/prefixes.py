"""The wire of service `PromptCache` into core's words and back."""

from backend.config import ModelConfig
from backend.core.reports import CacheReport, PrefixFacts
from backend.core.request import GenerationRequest
from backend.pb import backend_pb2 as pb
from backend.translate.cache_scope import checked_name, tenant_of
from backend.translate.requests import prompt_of


def prefix_request(
    wire: pb.CreatePrefixRequest, model: ModelConfig, *, request_id: str, deadline: float | None
) -> GenerationRequest:
    """A request that generates nothing and leaves its prompt under a name.

    Raises:
        InvalidRequest: The request is wrong in itself; names the field.
    """
    options = pb.PredictOptions(
        Prompt=wire.prompt,
        Messages=wire.messages,
        UseTokenizerTemplate=bool(wire.messages),
        Tools=wire.tools,
        Metadata=wire.metadata,
    )
    return GenerationRequest(
        request_id=request_id,
        prompt=prompt_of(options, model),
        tenant=tenant_of(wire.metadata),
        keep_as=checked_name("name", wire.name),
        prefill_only=True,
        deadline=deadline,
    )


def named_prefix(facts: PrefixFacts) -> pb.NamedPrefix:
    """One line of a list."""
    return pb.NamedPrefix(
        name=facts.name,
        tokens=facts.tokens,
        bytes=facts.nbytes,
        hits=facts.hits,
        age_seconds=facts.age_s,
        idle_seconds=-1.0 if facts.idle_s is None else facts.idle_s,
        where=facts.where,
    )


def stats(report: CacheReport) -> pb.PromptCacheStats:
    """Figures and rates."""
    return pb.PromptCacheStats(
        figures=report.figures,
        hit_rate=report.rate("hits", "fetches"),
        token_hit_rate=report.rate("tokens_matched", "tokens_asked"),
        isolation=report.isolation,
        keeps=report.keeps,
    )
