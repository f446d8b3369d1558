"""Single requests, each the worst of its kind, as bytes on the wire."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from backend.pb import backend_pb2 as pb
from backend.translate.wire_limits import MAX_MESSAGES, MAX_REQUEST_BYTES, MAX_TEXT_BYTES

MIB = 1 << 20
LARGEST = MAX_REQUEST_BYTES - 4096
TEXT = MAX_TEXT_BYTES
USER = pb.Message(role="user", content="hello")


def words(size: int) -> str:
    """`size` bytes of text."""
    return ("word and " * (size // 9 + 1))[:size]


def prompt(text: str) -> pb.PredictOptions:
    """A raw prompt."""
    return pb.PredictOptions(Prompt=text, Tokens=2)


def chat(*messages: pb.Message, **fields: object) -> pb.PredictOptions:
    """Messages for the template."""
    return pb.PredictOptions(Messages=messages, UseTokenizerTemplate=True, Tokens=2, **fields)  # type: ignore[arg-type]


def user(text: str) -> pb.Message:
    """A user's message."""
    return pb.Message(role="user", content=text)


def full_of(part: pb.PredictOptions) -> bytes:
    """The largest message of nothing but this part."""
    data = part.SerializeToString()
    return data * (LARGEST // len(data))


def calls(size: int) -> str:
    """Tool calls whose arguments are as many empty lists as fit."""
    arguments = "[" + "[]," * ((size - 100) // 3) + "0]"
    return f'[{{"function":{{"name":"f","arguments":{{"a":{arguments}}}}}}}]'


def biases(count: int) -> str:
    """A bias for so many ids."""
    return json.dumps(dict.fromkeys(range(count), 1))


@dataclass(frozen=True, slots=True)
class Nasty:
    """A request of its kind.

    Attributes:
        make: The request, or its bytes.
        words: Of the refusal; empty if it is answered.
    """

    name: str
    make: Callable[[], pb.PredictOptions | pb.DetokenizeRequest | pb.ModelOptions | bytes]
    words: str = ""
    method: str = "Predict"

    def data(self) -> bytes:
        """On the wire."""
        made = self.make()
        return made if isinstance(made, bytes) else made.SerializeToString()


FULL_OF_CALLS = pb.Message(role="assistant", tool_calls=calls(MIB - 4096))
NASTY = (
    Nasty("messages without end", lambda: full_of(pb.PredictOptions(Messages=[USER])), "8192 entries"),
    Nasty("as many messages as may be", lambda: chat(*[pb.Message(role="user", content="a")] * MAX_MESSAGES), "over"),
    Nasty("7 MiB of calls", lambda: chat(*[FULL_OF_CALLS] * 7), "bytes of tool_calls"),
    Nasty("calls of a million values", lambda: chat(USER, *[FULL_OF_CALLS] * 3, USER), "values"),
    Nasty("stop strings without end", lambda: full_of(pb.PredictOptions(StopPrompts=[""])), "StopPrompts"),
    Nasty("fields without end", lambda: b"\x10\x01" * (LARGEST // 2), "fields"),
    Nasty("unknown fields without end", lambda: b"\x9a\x3f\x00" * (LARGEST // 3), "fields"),
    Nasty("metadata without end", lambda: full_of(pb.PredictOptions(Metadata={"a": "b"})), "Metadata"),
    Nasty("50 MiB", lambda: prompt(words(50 * MIB - 100)), "larger than max"),
    Nasty("more words than may be", lambda: prompt(words(LARGEST)), "Prompt: has over"),
    Nasty("8 MiB of words", lambda: prompt(words(TEXT)), "tokens"),
    Nasty("8 MiB of one letter", lambda: prompt("x" * TEXT), "tokens"),
    Nasty("8 MiB of space", lambda: prompt(" " * TEXT), "tokens"),
    Nasty("8 MiB of snow", lambda: chat(user("\u2603" * (TEXT // 3 - 10))), "tokens"),
    Nasty("8 MiB of two scripts", lambda: chat(user("\u0431 " * (TEXT // 3 - 10))), "tokens"),
    Nasty("8 MiB of line ends", lambda: chat(user("x\n" * (TEXT // 2 - 10))), "tokens"),
    Nasty("8 MiB of control characters", lambda: chat(user("\x01" * (TEXT - 20))), "tokens"),
    Nasty("1 MiB of tools", lambda: chat(USER, Tools=calls(MIB - 10)), "values"),
    Nasty("20,000 biases", lambda: pb.PredictOptions(Prompt="a", LogitBias=biases(20_000)), "LogitBias"),
    Nasty("packed numbers", lambda: pb.PredictOptions(EmbeddingTokens=[1] * LARGEST), "EmbeddingTokens"),
    Nasty("12 MiB of ids", lambda: pb.DetokenizeRequest(tokens=[1] * LARGEST), "bytes", "Detokenize"),
    Nasty("as many ids as may be", lambda: pb.DetokenizeRequest(tokens=[9] * (1 << 18)), "", "Detokenize"),
    Nasty("8 MiB to tokenize", lambda: prompt(words(TEXT)), "tokens", "TokenizeString"),
    Nasty("1 MB to tokenize", lambda: prompt(words(500_000)), "", "TokenizeString"),
    Nasty("options without end", lambda: pb.ModelOptions(Model="m", Options=["a:b"] * MIB), "bytes", "LoadModel"),
    Nasty("12 MiB for a question without fields", lambda: b"\x9a\x3f\x00" * (LARGEST // 3), "bytes", "Status"),
    Nasty(
        "logprobs of 1,000 tokens",
        lambda: pb.PredictOptions(Prompt="Once", Tokens=1000, IgnoreEOS=True, TopLogprobs=20, Temperature=1),
    ),
)
