"""Turns with a server that stops where it is told to: what the conversation goes on from."""

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from backend.chat.conversation import Conversation, Message
from backend.chat.talking import Talk
from backend.client.connection import Connection
from backend.client.reached import Reached
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendServicer, add_BackendServicer_to_server
from backend.rpc.address import Address
from backend.terminal.screen import Screen

QUESTION: Message = {"role": "user", "content": "Q"}
BEGUN = pb.ChatDelta(tool_calls=[pb.ToolCallDelta(index=0, id="c1", name="f", arguments='{"x": ')])
Answer = Callable[[grpc.ServicerContext], Iterator[pb.Reply]]


class Server(BackendServicer):
    answer: Answer

    def PredictStream(self, request: pb.PredictOptions, context: Any) -> Iterator[pb.Reply]:  # noqa: N802
        yield from type(self).answer(context)


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Reached]]:
    """A worker that answers so."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def begin(answer: Answer) -> Reached:
            servicer = type("Answering", (Server,), {"answer": staticmethod(answer)})()
            add_BackendServicer_to_server(servicer, server)
            server.start()
            connection = Connection(address=Address.parse(f"127.0.0.1:{port}"))
            return Reached(connection=connection, channel=channel, info=pb.InfoResponse())

        yield begin
    server.stop(None).wait(60)


def hanging(*deltas: pb.ChatDelta) -> Answer:
    """These and no end; without any, somebody presses Ctrl-C."""

    def answer(context: Any) -> Iterator[pb.Reply]:
        over = threading.Event()
        context.add_callback(over.set)
        yield from (pb.Reply(chat_deltas=[delta], tokens=1) for delta in deltas)
        if not deltas:
            os.kill(os.getpid(), signal.SIGINT)
        assert over.wait(60)

    return answer


def cut(*deltas: pb.ChatDelta) -> Answer:
    """These, and the end of the answer's limit."""

    def answer(context: Any) -> Iterator[pb.Reply]:
        yield from (pb.Reply(chat_deltas=[delta], tokens=1) for delta in deltas)
        context.set_trailing_metadata([("x-finish-reason", "length")])

    return answer


class CtrlC(io.StringIO):
    """Where somebody presses Ctrl-C at the sight of this."""

    def __init__(self, seen: str) -> None:
        super().__init__()
        self._seen = seen

    def write(self, text: str) -> int:
        if self._seen in text:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def talk(*, typed: bool = True, out: io.StringIO | None = None) -> Talk:
    screen = Screen(out or io.StringIO(), io.StringIO(), live=False)
    return Talk(Conversation(messages=[QUESTION]), screen, typed=typed)


def test_a_question_that_was_stopped_before_its_answer_is_taken_back(serve: Callable[[Answer], Reached]) -> None:
    stopped = talk()
    assert stopped.ask(serve(hanging()))
    assert stopped.conversation.messages == []


@pytest.mark.parametrize(("how", "out"), [(cut, io.StringIO()), (hanging, CtrlC("f("))])
def test_a_call_that_was_cut_or_stopped_waits_for_no_result(
    how: Callable[..., Answer], out: io.StringIO, serve: Callable[[Answer], Reached]
) -> None:
    worker = serve(how(pb.ChatDelta(content="So"), BEGUN))
    asked = talk(out=out)
    assert asked.ask(worker)
    assert asked.conversation.messages == [QUESTION, {"role": "assistant", "content": "So"}]
    assert asked.conversation.open_calls == []


def test_where_nobody_types_ctrl_c_is_the_end(serve: Callable[[Answer], Reached]) -> None:
    worker = serve(cut(pb.ChatDelta(content="So")))
    asked = talk(typed=False, out=CtrlC("So"))
    with pytest.raises(KeyboardInterrupt):
        asked.ask(worker)
    assert asked.conversation.messages == []
