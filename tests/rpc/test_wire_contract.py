"""The descriptors must equal what hosts compiled into their clients."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from backend.pb import backend_pb2

ROOT = Path(__file__).resolve().parents[2]
CONTRACT: dict[str, Any] = json.loads((Path(__file__).parent / "wire_contract.json").read_text())
OURS = {
    "InfoRequest", "InfoResponse", "CreatePrefixRequest", "NamedPrefix", "ListPrefixesRequest", "ListPrefixesResponse",
    "DeletePrefixRequest", "ClearPromptCacheRequest", "PromptCacheStatsRequest", "PromptCacheStats",
}  # fmt: skip

SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def type_name(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields_by_name["key"], message.fields_by_name["value"]
        return f"map<{type_name(key)},{type_name(value)}>"
    if message is not None:
        return message.name
    if field.enum_type is not None:
        return field.enum_type.name
    return SCALARS[field.type]


def fields(message: Descriptor) -> dict[str, list[Any]]:
    def row(field: FieldDescriptor) -> list[Any]:
        name = type_name(field)
        return [field.number, name, field.is_repeated and not name.startswith("map<")]

    return {field.name: row(field) for field in message.fields}


def test_the_service_has_exactly_the_hosts_methods() -> None:
    service = backend_pb2.DESCRIPTOR.services_by_name[CONTRACT["service"]]
    assert backend_pb2.DESCRIPTOR.package == CONTRACT["package"]
    assert not any(method.client_streaming for method in service.methods)
    assert {
        method.name: [method.input_type.name, method.output_type.name, method.server_streaming]
        for method in service.methods
    } == CONTRACT["methods"]


def test_every_message_has_exactly_the_hosts_fields() -> None:
    messages = backend_pb2.DESCRIPTOR.message_types_by_name
    assert {name: fields(message) for name, message in messages.items() if name not in OURS} == CONTRACT["messages"]


def test_every_enum_has_exactly_the_hosts_values() -> None:
    nested = backend_pb2.StatusResponse.DESCRIPTOR.enum_types
    enums = [*backend_pb2.DESCRIPTOR.enum_types_by_name.values(), *nested]
    assert {enum.name: {v.name: v.number for v in enum.values} for enum in enums} == CONTRACT["enums"]


def test_the_committed_stubs_are_fresh() -> None:
    script = ROOT / "scripts" / "generate_proto.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
