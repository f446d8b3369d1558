"""docs/protocol.md against the descriptors and tables that it describes."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from backend.core import errors
from backend.pb import backend_pb2 as pb
from backend.process.exit_codes import ExitCode
from backend.rpc.status import STATUS
from backend.translate import conversation, without_effect
from backend.translate.options import ALWAYS_IN_REQUESTS, OPTIONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
USES = {"used", "no effect", "refused", "reserved"}


def section(title: str) -> str:
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, title
    return match[1]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(title: str) -> list[str]:
    return [name for row in rows(title) for name in re.findall(r"`([^`]+)`", row[0])]


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("PredictOptions", pb.PredictOptions.DESCRIPTOR),
        ("ModelOptions", pb.ModelOptions.DESCRIPTOR),
        ("Message", pb.Message.DESCRIPTOR),
        ("Reply", pb.Reply.DESCRIPTOR),
    ],
)
def test_every_field_has_its_row_in_the_order_of_the_wire(title: str, message: Descriptor) -> None:
    assert names(title) == [field.name for field in message.fields]


@pytest.mark.parametrize(
    ("title", "fields"), [("PredictOptions", without_effect.PREDICT), ("ModelOptions", without_effect.MODEL)]
)
def test_the_fields_without_effect_are_those_of_the_code(title: str, fields: frozenset[str]) -> None:
    assert {row[-1] for row in rows(title)} <= USES
    assert {row[0].strip("`") for row in rows(title) if row[-1] == "no effect"} == fields


def test_every_option_has_its_row() -> None:
    assert sorted(names("Options")) == sorted(OPTIONS)
    assert all(f"`{key}`" in section("Options") for key in ALWAYS_IN_REQUESTS)


def test_every_status_code_has_its_row() -> None:
    codes = {code.name for kind, code in STATUS.items() if kind is not errors.ModelLoadFailed}
    assert set(names("Status codes")) == codes


def test_every_exit_code_has_its_row() -> None:
    codes = re.findall(r"^\| (\d+) \|", section("The process"), re.MULTILINE)
    assert [int(code) for code in codes] == list(ExitCode)


def test_the_limits_are_those_of_the_code() -> None:
    tools = next(row for row in rows("PredictOptions") if row[0] == "`Tools`")
    assert f"{conversation.MAX_TOOLS} tools" in tools[2]
    assert all(f"`{name}`" in section("Metadata") for name in conversation.RESERVED_KWARGS)
