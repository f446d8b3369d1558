"""The limits of a request's size, checked on its bytes before anything is made of them.

Parsing makes an object of every part: 12 MiB of tiny parts take half a second and hundreds of megabytes. The tags and
lengths of the outermost fields say how many parts there are, and skipping from one to the next costs nothing else. The
inner messages of what this worker reads have no repeated fields, so they need no look inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from backend.core.errors import InvalidRequest
from backend.core.request import MAX_STOP_BYTES, MAX_STOPS
from backend.pb import backend_pb2 as pb

MAX_REQUEST_BYTES: Final = 12 << 20  # all that follows together; gRPC copies it three times on the event loop
MAX_FIELDS: Final = 1 << 14  # of any message, repeated ones counted each time; a look at so many takes 15 ms
MAX_TEXT_BYTES: Final = 8 << 20  # some two million tokens; decoding it is one call, 10 ms
MAX_MESSAGES: Final = 1 << 13
MAX_METADATA: Final = 1 << 10
MAX_METADATA_BYTES: Final = 2 << 20
MAX_TOOLS_BYTES: Final = 1 << 20
MAX_GRAMMAR_BYTES: Final = 1 << 20
MAX_ARGUMENTS_BYTES: Final = 256 << 10  # of JSON in ToolChoice and chat_template_kwargs
MAX_LOGIT_BIAS_BYTES: Final = 256 << 10
MAX_CANDIDATES: Final = 1 << 10  # of Score, and documents of Rerank
MAX_SCORE_PROMPT_BYTES: Final = 4 << 20
MAX_CANDIDATES_BYTES: Final = 1 << 20
MAX_QUERY_BYTES: Final = 64 << 10
MAX_MODEL_OPTIONS_BYTES: Final = 4 << 20
MAX_DETOKENIZE_BYTES: Final = 1 << 20

_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)


@dataclass(frozen=True, slots=True)
class FieldLimit:
    """What all occurrences of a field may take together."""

    max_bytes: int
    max_count: int = MAX_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLimits:
    """What a message may take.

    Attributes:
        max_bytes: Of the whole message.
        fields: By name.
        others: For each field that `fields` does not name, those of a newer client among them.
    """

    max_bytes: int = MAX_REQUEST_BYTES
    fields: Mapping[str, FieldLimit] = field(default_factory=dict)
    others: FieldLimit = FieldLimit(1 << 20)


_MEDIA = FieldLimit(MAX_REQUEST_BYTES, 1 << 10)  # refused, but with a sentence that says why
LIMITS: Final[Mapping[str, MessageLimits]] = {
    pb.PredictOptions.DESCRIPTOR.name: MessageLimits(
        fields={
            "Prompt": FieldLimit(MAX_TEXT_BYTES),
            # Repeats and empty strings do not count for a request, so more of them may come than are used.
            "StopPrompts": FieldLimit(MAX_STOPS * MAX_STOP_BYTES, MAX_STOPS * 16),
            "Grammar": FieldLimit(MAX_GRAMMAR_BYTES),
            "LogitBias": FieldLimit(MAX_LOGIT_BIAS_BYTES),
            "Tools": FieldLimit(MAX_TOOLS_BYTES),
            "ToolChoice": FieldLimit(MAX_ARGUMENTS_BYTES),
            "Messages": FieldLimit(MAX_TEXT_BYTES, MAX_MESSAGES),
            "Metadata": FieldLimit(MAX_METADATA_BYTES, MAX_METADATA),
            "Images": _MEDIA,
            "Videos": _MEDIA,
            "Audios": _MEDIA,
        }
    ),
    pb.CreatePrefixRequest.DESCRIPTOR.name: MessageLimits(
        fields={
            "prompt": FieldLimit(MAX_TEXT_BYTES),
            "messages": FieldLimit(MAX_TEXT_BYTES, MAX_MESSAGES),
            "tools": FieldLimit(MAX_TOOLS_BYTES),
            "metadata": FieldLimit(MAX_METADATA_BYTES, MAX_METADATA),
        }
    ),
    pb.ScoreRequest.DESCRIPTOR.name: MessageLimits(
        fields={
            "prompt": FieldLimit(MAX_SCORE_PROMPT_BYTES),
            "candidates": FieldLimit(MAX_CANDIDATES_BYTES, MAX_CANDIDATES),
        }
    ),
    pb.RerankRequest.DESCRIPTOR.name: MessageLimits(
        fields={
            "query": FieldLimit(MAX_QUERY_BYTES),
            "documents": FieldLimit(MAX_TEXT_BYTES, MAX_CANDIDATES),
        }
    ),
    pb.ModelOptions.DESCRIPTOR.name: MessageLimits(
        max_bytes=MAX_MODEL_OPTIONS_BYTES, others=FieldLimit(MAX_MODEL_OPTIONS_BYTES, 1 << 12)
    ),
    pb.DetokenizeRequest.DESCRIPTOR.name: MessageLimits(
        max_bytes=MAX_DETOKENIZE_BYTES, others=FieldLimit(MAX_DETOKENIZE_BYTES)
    ),
}
_SMALL = MessageLimits(max_bytes=1 << 20)


def check_size(kind: type[Message], data: bytes) -> None:
    """Refuse bytes that would be too large a message. Bytes that are no message may pass: the parser says so.

    Raises:
        InvalidRequest: Names the field, and the limit.
    """
    name = kind.DESCRIPTOR.name
    limits = LIMITS.get(name, _SMALL)
    if len(data) > limits.max_bytes:
        raise InvalidRequest(name, f"has {len(data)} bytes, limit {limits.max_bytes}")
    _check_fields(kind, limits, data)


@dataclass(slots=True)
class _Use:
    """What all occurrences of one field take so far."""

    name: str
    limit: FieldLimit
    count: int = 0
    size: int = 0

    def add(self, size: int) -> None:
        self.count += 1
        self.size += size
        if self.count > self.limit.max_count:
            raise InvalidRequest(self.name, f"has over {self.limit.max_count} entries")
        if self.size > self.limit.max_bytes:
            raise InvalidRequest(self.name, f"has over {self.limit.max_bytes} bytes")


def _check_fields(kind: type[Message], limits: MessageLimits, data: bytes) -> None:
    uses: dict[int, _Use] = {}
    at, seen, depth = 0, 0, 0
    while at < len(data):
        seen += 1
        if seen > MAX_FIELDS:
            raise InvalidRequest(kind.DESCRIPTOR.name, f"has over {MAX_FIELDS} fields")
        number, wire_type, start, at = _next_field(data, at)
        if wire_type > _FIXED32:
            return  # no message: the parser stops here too
        # A group belongs to fields that we do not know; what is in it has numbers of its own.
        depth += (wire_type == _GROUP) - (wire_type == _END_GROUP)
        if depth > 0:
            continue
        if number not in uses:
            name = _name_of(kind, number)
            uses[number] = _Use(name, limits.fields.get(name, limits.others))
        uses[number].add(at - start)


def _name_of(kind: type[Message], number: int) -> str:
    known = kind.DESCRIPTOR.fields_by_number.get(number)
    return known.name if known is not None else f"field {number}"


def _next_field(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Number and wire type of the field at `at`, where its value begins, and where the next field is.

    A value that goes on past the end of the data ends there: the parser will say that it is cut.
    """
    tag, start = _varint(data, at)
    kind, end = tag & 7, start
    if kind == _LENGTH:
        length, start = _varint(data, start)
        end = start + length
    elif kind == _VARINT:
        _, end = _varint(data, start)
    elif kind in (_FIXED64, _FIXED32):
        end += 8 if kind == _FIXED64 else 4
    return tag >> 3, kind, start, min(end, len(data))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and where it ends."""
    if at < len(data) and data[at] < 0x80:  # nearly always
        return data[at], at + 1
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        # A number takes ten bytes at most; what goes on is none, and must not grow here without bound.
        if byte < 0x80 or shift > 63:
            break
        shift += 7
    return value, at
