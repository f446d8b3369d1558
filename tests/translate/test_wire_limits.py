"""Sizes of messages, told from their bytes."""

import time

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from backend.core.errors import InvalidRequest
from backend.pb import backend_pb2 as pb
from backend.translate import wire_limits
from backend.translate.wire_limits import check_size

MIB = 1 << 20


def refusal(message, data: bytes | None = None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check_size(type(message), message.SerializeToString() if data is None else data)
    return refused.value.message


MESSAGE = pb.Message(role="u")
AT_THE_LIMIT = [
    ("Messages", [MESSAGE], wire_limits.MAX_MESSAGES),
    ("StopPrompts", ["a"], 1024),
    ("Images", [""], 1024),
]


@pytest.mark.parametrize(("field", "one", "count"), AT_THE_LIMIT)
def test_one_entry_over_the_limit_is_refused_by_name(field: str, one: list, count: int) -> None:
    check_size(pb.PredictOptions, pb.PredictOptions(**{field: one * count}).SerializeToString())
    assert refusal(pb.PredictOptions(**{field: one * (count + 1)})) == f"{field}: has over {count} entries"


def test_entries_of_metadata_are_counted() -> None:
    data = pb.PredictOptions(Metadata={"a": "b"}).SerializeToString()
    check_size(pb.PredictOptions, data * wire_limits.MAX_METADATA)
    assert refusal(pb.PredictOptions(), data * (wire_limits.MAX_METADATA + 1)).startswith("Metadata: has over")


BYTES = [("Prompt", 8 * MIB), ("Tools", MIB), ("Grammar", MIB), ("ToolChoice", MIB // 4), ("LogitBias", MIB // 4)]


@pytest.mark.parametrize(("field", "limit"), BYTES)
def test_one_byte_over_the_limit_is_refused_by_name(field: str, limit: int) -> None:
    check_size(pb.PredictOptions, pb.PredictOptions(**{field: "a" * limit}).SerializeToString())
    assert refusal(pb.PredictOptions(**{field: "a" * (limit + 1)})) == f"{field}: has over {limit} bytes"


def test_all_messages_together_have_one_limit_of_bytes() -> None:
    large = [pb.Message(role="user", content="\u2603" * MIB)]
    check_size(pb.PredictOptions, pb.PredictOptions(Messages=large * 2).SerializeToString())
    assert refusal(pb.PredictOptions(Messages=large * 3)).startswith("Messages: has over 8388608 bytes")


def test_a_field_of_a_newer_client_is_passed_over_and_counts() -> None:
    unknown = b"\x9a\x3f\x03abc"
    check_size(pb.PredictOptions, unknown + pb.PredictOptions(Prompt="a").SerializeToString())
    assert refusal(pb.PredictOptions(), unknown * (wire_limits.MAX_FIELDS + 1)).endswith("has over 16384 fields")


def test_what_a_group_holds_is_not_taken_for_fields_of_the_message() -> None:
    group = b"\xbb\x3f" + pb.PredictOptions(StopPrompts=["a"]).SerializeToString() * 2000 + b"\xbc\x3f"
    check_size(pb.PredictOptions, group)
    pb.PredictOptions.FromString(group)


def test_other_messages_are_small() -> None:
    assert "limit" in refusal(pb.HealthMessage(), b"\x9a\x3f\x00" * MIB)
    assert "limit" in refusal(pb.ModelOptions(Options=["a:b"] * (2 * MIB)))
    assert "limit" in refusal(pb.DetokenizeRequest(tokens=[1] * (2 * MIB)))


def test_twenty_million_parts_are_refused_in_no_time() -> None:
    data = pb.PredictOptions(StopPrompts=[""]).SerializeToString() * (8 * MIB)
    began = time.thread_time()
    refusal(pb.PredictOptions(), data)
    assert time.thread_time() - began < 0.5


@given(st.binary(max_size=60))
def test_no_bytes_break_it_and_bytes_of_a_message_pass(data: bytes) -> None:
    check_size(pb.PredictOptions, data)
    check_size(pb.PredictOptions, b"\x1a" + b"\xff" * len(data))


@given(st.binary(max_size=40))
def test_what_the_parser_takes_is_counted_to_its_last_field(data: bytes) -> None:
    many = data + pb.PredictOptions(StopPrompts=["a"]).SerializeToString() * 1025
    try:
        stops = len(pb.PredictOptions.FromString(many).StopPrompts)
    except DecodeError:
        return
    if stops > 1024:
        assert "StopPrompts" in refusal(pb.PredictOptions(), many)


@pytest.mark.parametrize(("message", "field"), [(pb.ScoreRequest, "candidates"), (pb.RerankRequest, "documents")])
def test_candidates_and_documents_are_counted_and_weighed(message: type, field: str) -> None:
    most = wire_limits.MAX_CANDIDATES
    check_size(message, message(**{field: ["a"] * most}).SerializeToString())
    assert refusal(message(**{field: ["a"] * (most + 1)})) == f"{field}: has over {most} entries"
    assert "bytes" in refusal(message(**{field: ["a" * (9 * MIB)]}))
