"""Single requests of at most 50 MiB, each the worst of its kind, as bytes on the wire."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from backend.pb import backend_pb2 as pb

MIB = 1 << 20
WORDS = "word and "


def text(size: int) -> str:
    """Words, `size` bytes of them."""
    return (WORDS * (size // len(WORDS) + 1))[:size]


def chat(*messages: pb.Message, **fields: object) -> pb.PredictOptions:
    """Messages for the template."""
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=2, **fields)  # type: ignore[arg-type]


def repeated(one: pb.PredictOptions, times: int) -> bytes:
    """The message's fields again and again: repeated fields grow."""
    return one.SerializeToString() * times


def _calls(size: int) -> str:
    arguments = "[" + "[]," * ((size - 100) // 3) + "0]"
    return f'[{{"function":{{"name":"f","arguments":{{"a":{arguments}}}}}}}]'


def _message_of(size: int) -> pb.Message:
    return pb.Message(role="assistant", tool_calls=_calls(size))


def _tools(size: int) -> str:
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(size // 30)}}
    return json.dumps([{"type": "function", "function": {"name": "f", "parameters": schema}}])[: size - 1]


@dataclass(frozen=True, slots=True)
class Nasty:
    """A request of its kind.

    Attributes:
        words: In the refusal; empty if it is answered.
    """

    name: str
    method: str
    data: Callable[[], bytes]
    words: str = ""


USER = pb.Message(role="user", content="hello")
NASTY = (
    Nasty("a million messages", "Predict", lambda: repeated(chat(pb.Message(role="u")), 1_000_000), "16384 entries"),
    Nasty(
        "as many messages as may be",
        "Predict",
        lambda: chat(*[pb.Message(role="user", content="a")] * 16_384).SerializeToString(),
        "over",
    ),
    Nasty("45 MiB of calls", "Predict", lambda: chat(*[_message_of(MIB)] * 45).SerializeToString(), "Messages"),
    Nasty(
        "as many calls as may be",
        "Predict",
        lambda: chat(USER, *[_message_of(MIB - 200)] * 4, USER).SerializeToString(),
        "over",
    ),
    Nasty("20 million stops", "Predict", lambda: repeated(pb.PredictOptions(StopPrompts=[""]), 20_000_000), "Stop"),
    Nasty("25 million tiny fields", "Predict", lambda: b"\x10\x01" * (25 * MIB - 100), "fields"),
    Nasty("many unknown fields", "Predict", lambda: b"\x9a\x3f\x00" * (15 * MIB), "fields"),
    Nasty(
        "a million of metadata",
        "Predict",
        lambda: repeated(pb.PredictOptions(Metadata={"a": "b"}), 1_000_000),
        "Metadata",
    ),
    Nasty(
        "50 MiB of prompt",
        "Predict",
        lambda: pb.PredictOptions(Prompt=text(50 * MIB - 100)).SerializeToString(),
        "Prompt",
    ),
    Nasty("16 MiB of words", "Predict", lambda: pb.PredictOptions(Prompt=text(16 * MIB)).SerializeToString(), "tokens"),
    Nasty(
        "16 MiB of one letter",
        "Predict",
        lambda: pb.PredictOptions(Prompt="x" * 16 * MIB).SerializeToString(),
        "tokens",
    ),
    Nasty("16 MiB of space", "Predict", lambda: pb.PredictOptions(Prompt=" " * 16 * MIB).SerializeToString(), "tokens"),
    Nasty(
        "15 MiB of snow in a message",
        "Predict",
        lambda: chat(pb.Message(role="user", content="\u2603" * (5 * MIB))).SerializeToString(),
        "",
    ),
    Nasty("1 MiB of tools", "Predict", lambda: chat(USER, Tools=_tools(MIB)).SerializeToString(), "Tools"),
    Nasty(
        "100,000 biases",
        "Predict",
        lambda: pb.PredictOptions(
            Prompt="a", LogitBias=json.dumps(dict.fromkeys(range(20_000), 1))
        ).SerializeToString(),
        "LogitBias",
    ),
    Nasty(
        "50 MiB of packed numbers",
        "Predict",
        lambda: pb.PredictOptions(EmbeddingTokens=[1] * (49 * MIB)).SerializeToString(),
        "EmbeddingTokens",
    ),
    Nasty(
        "50 MiB of ids",
        "Detokenize",
        lambda: pb.DetokenizeRequest(tokens=[1] * (49 * MIB)).SerializeToString(),
        "bytes",
    ),
    Nasty("200,000 ids", "Detokenize", lambda: pb.DetokenizeRequest(tokens=[1] * 200_000).SerializeToString()),
    Nasty(
        "16 MiB to tokenize",
        "TokenizeString",
        lambda: pb.PredictOptions(Prompt=text(16 * MIB)).SerializeToString(),
        "tokens",
    ),
    Nasty("1 MB to tokenize", "TokenizeString", lambda: pb.PredictOptions(Prompt=text(1_000_000)).SerializeToString()),
    Nasty(
        "50 MiB of options",
        "LoadModel",
        lambda: pb.ModelOptions(Model="m", Options=["a:b"] * (7 * MIB)).SerializeToString(),
        "bytes",
    ),
    Nasty("50 MiB of nothing", "Status", lambda: b"\x9a\x3f\x00" * (15 * MIB), "bytes"),
)
