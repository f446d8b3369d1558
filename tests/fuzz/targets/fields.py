"""Single fields that hold a notation of their own: LogitBias, calls in Messages, Metadata, a load's options."""

import json
import random
from typing import Any

from backend.core.errors import InvalidRequest, ModelLoadFailed
from backend.core.request import Sampling
from backend.pb import backend_pb2 as pb
from backend.prompt.messages import Shape, template_messages
from backend.translate.conversation import conversation_of
from backend.translate.sampling import logit_bias_of
from tests.e2e.odd_values import GRAMMARS, JSON, LOAD_OPTIONS, METADATA, NUMBERS, SCHEMAS, TEXTS
from tests.fuzz.changing import Words
from tests.fuzz.structures import change_json
from tests.fuzz.target import Broken, Target
from tests.fuzz.targets.translating import translate

VOCABULARY = 768
_CALLS = (
    [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, 2.5, "x"]}'}}],
    [{"function": {"name": "f", "arguments": {"a": None}}}, {"function": {"name": "g", "arguments": "not JSON {"}}],
    [{"function": {"name": "f"}}],
)
_SHAPES = (
    Shape(),
    Shape(content_parts=True, developer_as_system=True, one_system=True, whole_tools=True),
    Shape(arguments_as_text=True, reasoning_alone=True),
)


def logit_bias() -> Target:
    """`LogitBias`."""
    seeds = [
        *JSON,
        '{"1": 5, "2": -100.5, "-1": 0}',
        '{"767": 1e308, "768": 1}',
        *(f'{{"{n}": 1}}' for n in NUMBERS[:7]),
    ]
    return Target(run=_logit_bias, seeds=_bytes(seeds), change=change_json, refusals=(InvalidRequest,))


def _logit_bias(data: bytes) -> None:
    sampling = Sampling(logit_bias=logit_bias_of(data.decode("utf-8", "replace"))).within(VOCABULARY)
    if not all(0 <= token < VOCABULARY for token, _ in sampling.logit_bias):
        raise Broken("a bias of a token that there is not")


def messages() -> Target:
    """The calls of a message, as JSON in a conversation that has them."""
    return Target(
        run=_messages, seeds=_bytes([*map(json.dumps, _CALLS), *JSON]), change=change_json, refusals=(InvalidRequest,)
    )


def _messages(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    said = text[:200]
    wire = pb.PredictOptions(
        UseTokenizerTemplate=True,
        Messages=[
            pb.Message(role="system", content=said),
            pb.Message(role="developer", content="x-anthropic-billing-header: " + said),
            pb.Message(role="user", content=said, name="n"),
            pb.Message(role="assistant", content=said, tool_calls=text, reasoning_content=said[::2]),
            pb.Message(role="tool", content=text, tool_call_id="c1"),
        ],
    )
    conversation = conversation_of(wire, {})
    for shape in _SHAPES:
        for without in (True, False):
            json.dumps(template_messages(conversation, shape, without_agent_header=without))


def metadata() -> Target:
    """`Metadata`, as a JSON object of texts, in requests of every kind that has it."""
    values = [
        *NUMBERS[:6],
        *TEXTS[:6],
        *GRAMMARS[:4],
        *map(json.dumps, SCHEMAS[:6]),
        '{"documents": [{"a": 1}]}',
        "true",
    ]
    seeds = [json.dumps({key: value}) for key in METADATA for value in values]
    return Target(run=_metadata, seeds=_bytes(seeds), change=_change_metadata, refusals=(InvalidRequest,))


def _metadata(data: bytes) -> None:
    told = _object(data)
    wire = pb.PredictOptions(
        Messages=[pb.Message(role="user", content="hello")], UseTokenizerTemplate=True, Embeddings="a", Metadata=told
    )
    translate(wire)


def _change_metadata(rng: random.Random, data: bytes, words: Words) -> bytes:
    return change_json(rng, data, [*words, *(key.encode() for key in METADATA)])


def load_options() -> Target:
    """Options and EngineArgs of a load, as a JSON object of both."""
    values: list[Any] = ["auto", "off", "true", "1", "0.5", "512MiB", "1e999", "", "-1", "4"]
    seeds = [json.dumps({"o": [f"{key}:{value}"], "a": {key: value}}) for key in LOAD_OPTIONS for value in values[:4]]
    seeds += [json.dumps({"o": [f"{key}: {value} "], "a": {}}) for key in LOAD_OPTIONS[::3] for value in values]
    return Target(run=_load_options, seeds=_bytes(seeds), change=_change_options, refusals=(ModelLoadFailed,))


def _load_options(data: bytes) -> None:
    try:
        told = json.loads(data)
        options = [str(option).encode("utf-8", "replace").decode() for option in told["o"]]
        arguments = json.dumps(told["a"])
    except (ValueError, KeyError, TypeError, RecursionError):
        options, arguments = [], data.decode("utf-8", "replace")
    translate(pb.ModelOptions(Model="m", Options=options, EngineArgs=arguments))


def _change_options(rng: random.Random, data: bytes, words: Words) -> bytes:
    return change_json(rng, data, [*words, *(key.encode() for key in LOAD_OPTIONS)])


def _object(data: bytes) -> dict[str, str]:
    """Texts by text, as far as the data has them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("utf-8", "replace")
    if not isinstance(value, dict):
        value = {"chat_template_kwargs": value}
    texts = {key: each if isinstance(each, str) else json.dumps(each) for key, each in value.items()}
    return {_valid(key): _valid(text) for key, text in texts.items()}


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _bytes(texts: list[str]) -> list[bytes]:
    return [text.encode("utf-8", "replace") for text in texts]
