"""Requests as bytes, for every kind of message, into core's words."""

import random
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from backend.config import ModelConfig
from backend.core.errors import InvalidRequest, ModelLoadFailed
from backend.pb import backend_pb2 as pb
from backend.rpc.methods import parse
from backend.rpc.status import MAX_DETAILS_BYTES, status_of
from backend.translate import without_effect
from backend.translate.options import LoadDefaults, load_request
from backend.translate.pooled import embedding_request, rerank_request, score_request
from backend.translate.prefixes import prefix_request
from backend.translate.reply_shape import ReplyShape
from backend.translate.requests import generation_request
from tests.e2e.odd_values import Odd
from tests.fuzz.changing import Words
from tests.fuzz.target import Broken, Target
from tests.fuzz.wire_changes import change_wire

MODEL = ModelConfig(identity="m", candidates=("/models/m",), model_path="/models")
KINDS = tuple(
    {m.input_type.name: m.input_type for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods}.values()
)
_SEEDS_OF_A_KIND = 6


def requests() -> Target:
    """The first byte says what kind of message the others are."""
    odd = Odd(1)
    seeds = [bytes((at,)) + odd.request(kind)[:2000] for at, kind in enumerate(KINDS) for _ in range(_SEEDS_OF_A_KIND)]
    return Target(run=_translate, seeds=seeds, change=_change, refusals=(InvalidRequest, ModelLoadFailed))


def translate(wire: Message) -> None:
    """Make of a message what the worker makes of it.

    Raises:
        InvalidRequest, ModelLoadFailed: The message is wrong; in one line.
    """
    try:
        _made_of(wire)
    except (InvalidRequest, ModelLoadFailed) as error:
        _, details = status_of(error)
        if "\n" in details or len(details.encode()) > MAX_DETAILS_BYTES:
            raise Broken("details of more than one line") from error
        raise


def _made_of(wire: Message) -> None:
    known: dict[str, Any] = {"request_id": "r", "deadline": None}
    match wire:
        case pb.PredictOptions():
            without_effect.fields_without_effect(wire, without_effect.PREDICT)
            _each(
                lambda: ReplyShape.of(wire, generation_request(wire, MODEL, request_id="r", deadline=None).prompt),
                lambda: embedding_request(wire, request_id="r", deadline=None),
            )
        case pb.ModelOptions():
            load_request(wire, LoadDefaults())
        case pb.CreatePrefixRequest():
            prefix_request(wire, MODEL, **known)
        case pb.ScoreRequest():
            score_request(wire, {}, **known)
        case pb.RerankRequest():
            rerank_request(wire, {}, **known)
        case _:
            pass


def _each(*makers: Callable[[], object]) -> None:
    """All of them, whatever the others raise; then the first error."""
    first: InvalidRequest | None = None
    for maker in makers:
        try:
            maker()
        except InvalidRequest as error:
            first = first or error
    if first is not None:
        raise first


def _translate(data: bytes) -> None:
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    translate(parse(GetMessageClass(kind), data[1:]))


def _change(rng: random.Random, data: bytes, words: Words) -> bytes:
    first = data[:1] if rng.random() < 0.98 else rng.randbytes(1)
    return first + change_wire(rng, data[1:], words)
