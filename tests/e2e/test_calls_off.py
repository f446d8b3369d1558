"""A model whose tool-call parser is turned off: nothing is a call, none is held to a tool, and none can be required."""

import json
import shutil
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, predict
from tests.e2e.chatting import ask
from tests.e2e.worker import TINY_CHAT, Worker

pytestmark = pytest.mark.slow

TURNS = "{% for message in messages %}{{ message.content }}{% endfor %}"
# The markers in a chat template that tell the format; what is left of harmony without calls is its channels.
SIGNS = {
    "harmony": "<|start|><|channel|><|message|>",
    "muse_spark": "<atem:function_calls>",
    "seed_oss": "<seed:tool_call>",
}
STRICT = json.dumps([{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}])


@pytest.fixture(scope="module", params=["harmony", "muse_spark", "seed_oss"])
def off(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, another_worker: Worker) -> Worker:
    folder: Path = tmp_path_factory.mktemp("off") / "model"
    shutil.copytree(TINY_CHAT, folder)
    (folder / "chat_template.jinja").write_text(f"{{# {SIGNS[request.param]} #}}{TURNS}")
    another_worker.must_load(folder)
    assert another_worker.stub.ModelMetadata(pb.ModelOptions()).tool_format.format_type == request.param
    another_worker.must_load(folder, "tool_parser:none")
    return another_worker


def test_a_strict_tool_that_need_not_be_called_is_no_reason_to_refuse(off: Worker) -> None:
    turn = ask(off, chat("Hi", 8, Tools=STRICT, ToolChoice="auto"))
    assert turn.answer.code == grpc.StatusCode.OK
    assert not turn.calls


def test_a_call_that_must_come_is_refused(off: Worker) -> None:
    answer = predict(off.stub, chat("Hi", 8, Tools=STRICT, ToolChoice="required"))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "Tools: calls are turned off for this model")
