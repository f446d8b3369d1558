"""What docs/security.md promises of the real worker, where no other test shows it."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import predict, prompt, stream
from tests.e2e.worker import TINY_CHAT, Worker, wait_until

SECRET = "plugh-xyzzy-1789"
TOOL = [{"type": "function", "function": {"name": "f", "description": SECRET, "parameters": {"type": "object"}}}]


@contextmanager
def listener() -> Iterator[tuple[str, list[object]]]:
    """A place that nobody has a reason to call, and who did."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        called: list[object] = []

        def accept() -> None:
            with suppress(OSError):  # shut down
                while True:
                    caller, address = server.accept()
                    caller.close()
                    called.append(address)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/a", called
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def texts(kind: type[pb.ModelOptions] | type[pb.PredictOptions]) -> list[FieldDescriptor]:
    """The fields of a message that hold text."""
    return [field for field in kind.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_STRING]


def filled(field: FieldDescriptor, value: str) -> dict[str, object]:
    """A message's fields with one of them set."""
    return {field.name: [value] if field.is_repeated else value}


def never_called(address: str, called: list[object]) -> None:
    """Whoever had called would be here."""
    assert not called
    socket.create_connection(("127.0.0.1", int(address.split(":")[2].split("/")[0]))).close()
    wait_until(lambda: bool(called), "the one call")


def test_no_field_of_a_request_makes_the_worker_connect_anywhere(worker: Worker) -> None:
    worker.must_load()
    with listener() as (address, called):
        for field in texts(pb.PredictOptions):
            asked: dict[str, Any] = {"Prompt": "Once", "Tokens": 2, **filled(field, address)}
            predict(worker.stub, pb.PredictOptions(**asked))
        schema = json.dumps({"$ref": address})
        predict(worker.stub, prompt("Once", 2, Metadata={"json_schema": schema}))
        never_called(address, called)


@pytest.mark.slow
def test_no_field_of_a_load_makes_the_worker_connect_anywhere(worker: Worker) -> None:
    """Only the hub is asked, for what looks like one of its repositories; the operator says where that is."""
    with listener() as (address, called):
        worker.load(address)
        for field in texts(pb.ModelOptions):
            if field.name not in ("Model", "Options"):
                worker.load(TINY_CHAT, **filled(field, address))
        worker.load(TINY_CHAT, f"tokenizer:{address}", f"chat_template_file:{address}", f"revision:{address}")
        worker.load(TINY_CHAT, Proxy=pb.ProxyOptions(upstream_url=address, api_key_file="/etc/passwd"))
        never_called(address, called)


REFUSED = {
    "a prompt that is too long": {"Prompt": f"{SECRET} " * 9000},
    "messages that are too long": {
        "Messages": [pb.Message(role="user", content=f"{SECRET} " * 9000)], "UseTokenizerTemplate": True,
    },
    "a message without a role": {"Messages": [pb.Message(content=SECRET)], "UseTokenizerTemplate": True},
    "tool calls that are broken": {
        "Messages": [pb.Message(role="assistant", tool_calls=f'[{{"{SECRET}')], "UseTokenizerTemplate": True,
    },
    "a stop string that is too long": {"Prompt": "a", "StopPrompts": [SECRET * 2000]},
    "tools that are broken": {"Prompt": "a", "Tools": f'[{{"{SECRET}'},
    "tools with a comma too many": {"Prompt": "a", "Tools": json.dumps(TOOL)[:-1] + ",]"},
    "a bias that is broken": {"Prompt": "a", "LogitBias": f'{{"{SECRET}": 1}}'},
    "a salt that is too long": {"Prompt": "a", "Metadata": {"cache_salt": SECRET * 100}},
    "a conversation that is too long": {"Prompt": "a", "Metadata": {"conversation_id": SECRET * 100}},
    "template arguments that are broken": {
        "Messages": [pb.Message(role="user", content="a")], "UseTokenizerTemplate": True,
        "Metadata": {"chat_template_kwargs": f'{{"{SECRET}'},
    },
    "a schema that is broken": {"Prompt": "a", "Metadata": {"json_schema": f'{{"{SECRET}'}},
    "an image": {"Prompt": SECRET, "Images": [SECRET]},
    "a number": {"Prompt": SECRET, "Temperature": -1, "CorrelationId": "a"},
}  # fmt: skip


def test_what_is_refused_is_not_repeated_neither_to_the_client_nor_in_the_log(worker: Worker) -> None:
    """Hosts put details into answers and logs of their own."""
    lines = len(worker.log.lines)
    for what, fields in REFUSED.items():
        answer = stream(worker.stub, pb.PredictOptions(Tokens=2, **fields))  # type: ignore[arg-type]
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (what, answer.code)
        assert SECRET not in answer.details, (what, answer.details)
    # What is logged of a request is logged before its client has the answer, but for a line or two.
    worker.must_load()
    assert not [line for line in worker.log.lines[lines:] if SECRET in line]
