"""Requests made from the wire's own descriptors: whatever fields a message has, with values that nobody expects."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from backend.pb import backend_pb2 as pb
from backend.translate.options import ALWAYS_IN_REQUESTS, OPTIONS

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


@cache
def texts() -> st.SearchStrategy[str]:
    """Any string, those that mean something here before others."""
    dumped = [json.dumps(value) for value in TOOLS]
    known = st.sampled_from([*TEXTS, *JSON, *NUMBERS, *GRAMMARS, *dumped])
    return st.one_of(known, st.text(max_size=40), st.builds(str.__add__, known, known))


@cache
def option() -> st.SearchStrategy[str]:
    """An entry of Options."""
    values = st.one_of(st.sampled_from(INTEGERS).map(str), st.sampled_from(REALS).map(str), texts())
    keyed = st.builds("{}:{}".format, st.sampled_from(LOAD_OPTIONS), values)
    return st.one_of(keyed, texts())


def _engine_args() -> st.SearchStrategy[str]:
    values = st.one_of(st.sampled_from([*INTEGERS, *REALS, None, True, [], {}]), texts())
    return st.dictionaries(st.sampled_from(LOAD_OPTIONS), values, max_size=3).map(json.dumps)


@cache
def named() -> Mapping[str, st.SearchStrategy[str]]:
    """What a field of this name is made for, or nearly."""
    return {
        "Options": option(),
        "EngineArgs": _engine_args(),
        "Grammar": st.sampled_from(GRAMMARS),
        "Tools": st.sampled_from(TOOLS).map(json.dumps),
        "tools": st.sampled_from(TOOLS).map(json.dumps),
        "ToolChoice": st.sampled_from(("auto", "none", "required", "any", "f", '{"type":"function"}')),
        "LogitBias": st.dictionaries(st.sampled_from(INTEGERS).map(str), st.sampled_from(REALS)).map(json.dumps),
        "role": st.sampled_from(("user", "assistant", "system", "tool", "developer")),
    }


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One value of a field that is no message."""
    match field.type:
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_INT32:
            return st.one_of(st.sampled_from(INTEGERS), st.integers(-(2**31), 2**31 - 1))
        case FieldDescriptor.TYPE_FLOAT:
            return st.one_of(st.sampled_from(REALS), st.floats(width=32))
        case FieldDescriptor.TYPE_STRING:
            return st.one_of(named()[field.name], texts()) if field.name in named() else texts()
    raise AssertionError(f"no request has had such a field: {field.full_name}")


def is_map(field: FieldDescriptor) -> bool:
    """Whether it is written `map<string, string>`."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One value of any field."""
    if is_map(field):
        keys = st.one_of(st.sampled_from(METADATA), st.sampled_from(METADATA), texts())
        return st.dictionaries(keys, st.one_of(texts(), st.sampled_from(SCHEMAS).map(json.dumps)), max_size=3)
    one = message(field.message_type) if field.message_type is not None else scalar(field)
    if not field.is_repeated:
        return one
    counts = (3, 65) if field.name in PASSES else (3, 65, 600)
    return st.one_of(st.lists(one, max_size=4), st.builds(_many, one, st.sampled_from(counts)))


def _many(item: Any, count: int) -> list[Any]:
    """So many, or as many as the worker has read before anybody's patience ends."""
    size = item.ByteSize() if isinstance(item, Message) else len(str(item))
    return [item] * min(count, 1 + MANY_BYTES // (1 + size))


@cache
def message(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """A message with some of its fields set."""
    kind, fields = GetMessageClass(descriptor), [field.name for field in descriptor.fields]
    if not fields:
        return st.just(kind())
    chosen = st.lists(st.sampled_from(fields), max_size=4, unique=True)
    return chosen.flatmap(lambda names: _with(kind, descriptor, names))


def _with(kind: Any, descriptor: Descriptor, names: Sequence[str]) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries({name: value(descriptor.fields_by_name[name]) for name in names}).map(
        lambda chosen: kind(**chosen)
    )


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


def request(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """A request's bytes: odd values over a sound request, alone, or with bytes that were changed on the way."""
    base = st.sampled_from((*SOUND.get(descriptor.name, ()) * 3, GetMessageClass(descriptor)()))
    written = st.builds(_merged, base, message(descriptor))
    changed = st.builds(_mutated, written, st.integers(0), st.binary(max_size=9))
    return st.one_of(*[written] * 6, changed)


def _merged(base: Message, odd: Message) -> bytes:
    merged = type(base)()
    merged.CopyFrom(base)
    # A list that is odd stands in place of the sound one, not behind it.
    for field, _ in odd.ListFields():
        merged.ClearField(field.name)
    merged.MergeFrom(odd)
    return merged.SerializeToString()


def _mutated(data: bytes, at: int, inserted: bytes) -> bytes:
    """Cut, overwritten or lengthened somewhere."""
    place = at % (len(data) + 1)
    kept = (data[place:], data[place + len(inserted) :], b"")[at % 3]
    return data[:place] + inserted + kept
