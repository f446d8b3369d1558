"""`PredictOptions` into `GenerationRequest`: everything a request can get wrong without a vocabulary ends here."""

import math
import re
from collections.abc import Mapping
from typing import Literal

from backend.config import ModelConfig
from backend.core.errors import InvalidRequest
from backend.core.request import MAX_PRIORITY, Conversation, GenerationRequest, Grammar
from backend.core.utf8 import utf8_size
from backend.pb import backend_pb2 as pb
from backend.translate.cache_scope import conversation_id_of, name_of_path, tenant_of
from backend.translate.conversation import conversation_of, tool_choice_of, tools_of
from backend.translate.sampling import max_tokens_of, sampling_of
from backend.translate.strict_json import parse_json
from backend.translate.wire_limits import MAX_GRAMMAR_BYTES

GrammarKind = Literal["json_schema", "regex", "lark"]
_METADATA_GRAMMARS: tuple[GrammarKind, ...] = ("json_schema", "regex", "lark")
_PRIORITY = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_MEDIA = ("Images", "Videos", "Audios")


def generation_request(
    wire: pb.PredictOptions, model: ModelConfig, *, request_id: str, deadline: float | None, streamed: bool = False
) -> GenerationRequest:
    """What the client asks for, over the model's defaults.

    Args:
        deadline: Monotonic seconds; None is no deadline.
        streamed: The call is PredictStream.

    Raises:
        InvalidRequest: The request is wrong in itself; names the field.
    """
    for field in _MEDIA:
        if getattr(wire, field):
            raise InvalidRequest(field, "this worker serves text models")
    return GenerationRequest(
        request_id=request_id,
        prompt=prompt_of(wire, model),
        max_tokens=max_tokens_of(wire.Tokens, model.default_max_tokens),
        max_draft=wire.NDraft or None,
        sampling=sampling_of(wire, model.defaults),
        # "" is in every text; dict keeps the order and drops repeats.
        stop=tuple(dict.fromkeys(stop for stop in wire.StopPrompts if stop)),
        logprobs=_logprobs_of(wire),
        grammar=_grammar_of(wire.Grammar, wire.Metadata),
        cache_read_only=wire.PromptCacheRO,
        cache_answer=model.cache.keep_answers,
        tenant=tenant_of(wire.Metadata),
        conversation_id=conversation_id_of(wire.Metadata),
        priority=priority_of(wire.Metadata),
        keep_as=name_of_path(wire.PromptCachePath, model.model_path),
        deadline=deadline,
        streamed=streamed,
    )


def uses_template(wire: pb.PredictOptions) -> bool:
    """Whether Messages go through the chat template; Prompt is not read then, whatever it says."""
    return wire.UseTokenizerTemplate and len(wire.Messages) > 0


def prompt_of(wire: pb.PredictOptions, model: ModelConfig) -> str | Conversation:
    """The prompt, raw or as a conversation.

    Raises:
        InvalidRequest: Nothing to run, or a JSON field is broken (also where the raw prompt does not use it).
    """
    if uses_template(wire):
        return conversation_of(wire, model.template_kwargs)
    tool_choice_of(wire.ToolChoice, tools_of(wire.Tools))
    prompt = wire.Prompt  # read once: each time it is decoded anew
    if not prompt:
        hint = "; Messages need UseTokenizerTemplate" if wire.Messages else ""
        raise InvalidRequest("Prompt", f"prompt is empty{hint}")
    return prompt


def priority_of(metadata: Mapping[str, str]) -> int:
    """The request's priority; 0 where it has none.

    Raises:
        InvalidRequest: It is no whole number, or out of range.
    """
    text = metadata.get("priority", "").strip()
    if text and not _PRIORITY.fullmatch(text):
        raise InvalidRequest("Metadata[priority]", f"must be a whole number in [{-MAX_PRIORITY}, {MAX_PRIORITY}]")
    return int(text or "0")


def deadline_of(time_remaining: float | None, now: float) -> float | None:
    """gRPC's remaining seconds as a point on the monotonic clock; hosts without a deadline send none or infinity."""
    if time_remaining is None or not math.isfinite(time_remaining):
        return None
    return now + time_remaining


def _logprobs_of(wire: pb.PredictOptions) -> int | None:
    """Hosts send both fields alike; a plain client may set either."""
    for field, value in (("Logprobs", wire.Logprobs), ("TopLogprobs", wire.TopLogprobs)):
        if value < 0:
            raise InvalidRequest(field, f"must not be negative, is {value}")
    return (wire.TopLogprobs or wire.Logprobs) or None


def _grammar_of(gbnf: str, metadata: Mapping[str, str]) -> Grammar | None:
    others: list[GrammarKind] = [kind for kind in _METADATA_GRAMMARS if metadata.get(kind, "").strip()]
    if len(others) + bool(gbnf.strip()) > 1:
        raise InvalidRequest("Grammar", "only one of Grammar and Metadata json_schema, regex and lark may be set")
    if gbnf.strip():
        return Grammar(kind="gbnf", text=_sized("Grammar", gbnf))
    for kind in others:
        text = _sized(f"Metadata[{kind}]", metadata[kind])
        if kind == "json_schema":
            parse_json("Metadata[json_schema]", text, max_bytes=MAX_GRAMMAR_BYTES)
        return Grammar(kind=kind, text=text)
    return None


def _sized(field: str, text: str) -> str:
    if utf8_size(text) > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(field, f"has {utf8_size(text)} bytes, limit {MAX_GRAMMAR_BYTES}")
    return text
