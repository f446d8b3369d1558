"""Requests made from the wire's own descriptors: whatever fields a message has, with values that nobody expects."""

import json
import math
import random
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from backend.pb import backend_pb2 as pb
from backend.translate.options import ALWAYS_IN_REQUESTS, OPTIONS
from backend.translate.without_effect import MODEL, PREDICT
from tests.grammar.dear import chain, doubling, optional_properties

INTEGERS = (0, 1, -1, 2, 3, 20, 21, 255, 256, 767, 768, 4096, 2**31 - 1, -(2**31))
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-9, 1e-3, 2.0, 100.0, 3.4e38, math.nan, math.inf, -math.inf)
NUMBERS = ("0", "-1", "1e999", "NaN", "٣", "1_0", " 7 ", "0x10", "9" * 5000)
JSON = (
    "null", "true", "{}", "[]", "[[]]", '""', "{", "[1,", '{"a": NaN}', '{"a": 1e999}', '{"a":1,"a":2}', "[" * 500,
    "[" * 60 + "]" * 60, '"\\ud800"', '{"\\u0000": 1}', '{"0": 1}', '{"-1": 5}', '{"767": -10000}', '{"٣": 1}',
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "\0", "\x1b[2J", "\ufeff", "\ufffd", "\u202e", "\U0010ffff", "e\u0301", "👩‍👩‍👧", "user",
    "assistant", "system", "tool", "developer", "random", "auto", "none", "required", "<|im_start|>", "<|im_end|>",
    "<tool_call>", "{{ messages }}", "{% for x in y %}", "%s%n", "../../etc/passwd", "/dev/zero", "/proc/self/environ",
    "file:///", "hf://", "a/b", "a" * 300, "word " * 400, "x" * 70_000,
)  # fmt: skip
GRAMMARS = (
    'root ::= "yes"', "root ::= (((", 'root ::= root "a" | ""', "root ::= [^\\x00]*", 'root ::= "a"{1000000}',
    "root ::= undefined", "start: /[a-z]+/", "((((", "(a+)+b", "a{1000}{1000}", "[", "\\p{L}+", "(?=a)b", "",
)  # fmt: skip
SCHEMAS: tuple[Any, ...] = (
    True, False, {}, {"type": "strange"}, {"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": "file:///etc/passwd"},
    {"enum": []}, {"const": None}, {"type": "string", "pattern": "("}, {"type": "integer", "minimum": 1e400},
    {"type": "array", "minItems": 10**9, "items": {}}, {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "properties": {"": {"type": "string"}, "\u0000": {}}, "required": ["", "absent"]},
)  # fmt: skip
TOOLS: tuple[Any, ...] = (
    *SCHEMAS,
    *([{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}] for schema in SCHEMAS),
    [{"type": "function", "function": {"name": ""}}],
    [{"type": "function", "function": {"name": "a b<\n"}}] * 3,
    [{"function": {"name": "f", "arguments": '{"a":'}, "id": 7, "type": "function"}],
)
METADATA = (
    "enable_thinking", "reasoning_effort", "chat_template_kwargs", "json_schema", "regex", "lark", "xtc_probability",
    "xtc_threshold", "seed", "message", "cache_salt", "embedding_prompt", "conversation_id", "priority", "", "unknown",
)  # fmt: skip
MANY_BYTES = 4096
# Each of them is a pass of the model.
PASSES = ("candidates", "documents")
# Whoever loads may end the worker by the one, and have it write where the other says.
OF_THE_HOST = {"watchdog_s", "prompt_cache_dir"}
LOAD_OPTIONS = tuple(sorted((set(OPTIONS) | ALWAYS_IN_REQUESTS) - OF_THE_HOST))


# Fields that nothing reads are set now and then, the others each time that they are drawn.
UNREAD, UNREAD_SHARE = PREDICT | MODEL, 0.2
CHANGED_SHARE = 0.1
# Schemas that take everything, if they may; each costs seconds.
DEAR, DEAR_SHARE = (doubling, lambda: optional_properties(3_000), lambda: chain(20_000)), 0.1
MOST_FIELDS = 3
USER = pb.Message(role="user", content="hello")
# What would be answered: an odd value is only met by whoever comes as far as to read it.
SOUND: Mapping[str, tuple[Message, ...]] = {
    "PredictOptions": (
        pb.PredictOptions(Prompt="Once upon a time", Tokens=3, Embeddings="Once"),
        pb.PredictOptions(Messages=[USER], UseTokenizerTemplate=True, Tokens=3, EmbeddingTokens=[1, 2]),
    ),
    "RerankRequest": (pb.RerankRequest(query="a question", documents=["an answer", "another"]),),
    "ScoreRequest": (pb.ScoreRequest(prompt="Once upon a", candidates=[" time", " day"]),),
    "CreatePrefixRequest": (pb.CreatePrefixRequest(name="rules", prompt="Once upon a time"),),
    "DetokenizeRequest": (pb.DetokenizeRequest(tokens=[1, 2, 3]),),
}


class Odd:
    """Draws requests. Equal seeds give equal requests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._named = {
            "Options": self._option,
            "EngineArgs": self._engine_args,
            "Grammar": lambda: self._one(GRAMMARS),
            "Tools": lambda: json.dumps(self._one(TOOLS)),
            "tools": lambda: json.dumps(self._one(TOOLS)),
            "tool_calls": lambda: json.dumps(self._one(TOOLS)),
            "ToolChoice": lambda: self._one(("auto", "none", "required", "any", "f", '{"type":"function"}')),
            "LogitBias": lambda: json.dumps({str(self._one(INTEGERS)): self._one(REALS) for _ in range(2)}),
            "role": lambda: self._one(("user", "assistant", "system", "tool", "developer")),
        }

    def request(self, descriptor: Descriptor) -> bytes:
        """A request's bytes: odd values over a sound request, alone, or with bytes that were changed on the way."""
        kind = GetMessageClass(descriptor)
        sound = kind()
        sound.CopyFrom(self._one((*SOUND.get(descriptor.name, ()) * 3, kind())))
        odd = self._message(descriptor)
        # A list that is odd stands in place of the sound one, not behind it.
        for field, _ in odd.ListFields():
            sound.ClearField(field.name)
        sound.MergeFrom(odd)
        data = sound.SerializeToString()
        return self._changed(data) if self._random.random() < CHANGED_SHARE else data

    def _one(self, values: Any) -> Any:
        return self._random.choice(values)

    def _text(self) -> str:
        known = self._one((TEXTS, TEXTS, JSON, NUMBERS, GRAMMARS))
        match self._random.randrange(6):
            case 0:
                return "".join(chr(self._point()) for _ in range(self._random.randrange(20)))
            case 1:
                return self._cut(json.dumps(self._one((*TOOLS, *SCHEMAS))))
            case 2:
                return self._one(known) + self._one(TEXTS)
        return self._one(known)

    def _point(self) -> int:
        point = self._one(
            (self._random.randrange(0x80), self._random.randrange(0x3000), self._random.randrange(0x110000))
        )
        return 0xFFFD if 0xD800 <= point < 0xE000 else point

    def _cut(self, text: str) -> str:
        """A text with a part of it left out."""
        start = self._random.randrange(len(text) + 1)
        return text[:start] + text[start + self._random.randrange(4) :]

    def _option(self) -> str:
        return f"{self._one(LOAD_OPTIONS)}:{self._one((self._text(), *INTEGERS, *REALS, 'auto', 'off', 'true'))}"

    def _engine_args(self) -> str:
        values = (self._text(), *INTEGERS, *REALS, None, True, [], {}, "auto")
        return json.dumps({self._one(LOAD_OPTIONS): self._one(values) for _ in range(self._random.randrange(4))})

    def _scalar(self, field: FieldDescriptor) -> Any:
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return self._one((True, False))
            case FieldDescriptor.TYPE_INT32:
                return self._one((*INTEGERS, self._random.randrange(-(2**31), 2**31)))
            case FieldDescriptor.TYPE_FLOAT:
                return self._one((*REALS, self._random.uniform(-3, 3)))
            case FieldDescriptor.TYPE_STRING:
                made = self._named.get(field.name)
                return made() if made and self._random.random() < 0.7 else self._text()
        raise AssertionError(f"no request has had such a field: {field.full_name}")

    def _value(self, field: FieldDescriptor) -> Any:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {
                self._one((*METADATA * 2, self._text())): self._meant() for _ in range(self._random.randrange(1, 4))
            }
        if not field.is_repeated:
            return self._single(field)
        if self._random.random() < 0.6:
            return [self._single(field) for _ in range(self._random.randrange(5))]
        item = self._single(field)
        size = item.ByteSize() if isinstance(item, Message) else len(str(item))
        # As many as the worker has read before anybody's patience ends.
        count = self._one((3, 65) if field.name in PASSES else (3, 65, 600))
        return [item] * min(count, 1 + MANY_BYTES // (1 + size))

    def _meant(self) -> str:
        """A value of Metadata: of one key or another."""
        schema = json.dumps(self._one(SCHEMAS)) if self._random.random() > DEAR_SHARE else self._one(DEAR)()
        return self._one((self._text(), schema, self._one(GRAMMARS), str(self._one(REALS)), "true"))

    def _single(self, field: FieldDescriptor) -> Any:
        return self._message(field.message_type) if field.message_type is not None else self._scalar(field)

    def _message(self, descriptor: Descriptor) -> Message:
        """A message with some of its fields set."""
        fields = [f for f in descriptor.fields if f.name not in UNREAD or self._random.random() < UNREAD_SHARE]
        chosen = self._random.sample(fields, min(len(fields), self._random.randrange(MOST_FIELDS + 1)))
        return GetMessageClass(descriptor)(**{field.name: self._value(field) for field in chosen})

    def _changed(self, data: bytes) -> bytes:
        """Cut, overwritten or lengthened somewhere."""
        place, inserted = self._random.randrange(len(data) + 1), self._random.randbytes(self._random.randrange(6))
        kept = self._one((data[place:], data[place + len(inserted) :], b""))
        return data[:place] + inserted + kept
