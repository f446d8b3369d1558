"""Turns of a conversation with a worker. Ctrl-C ends the answer, and not the program where a person types."""

import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import grpc

from backend.chat.conversation import Conversation
from backend.chat.turn import Answer, request_of
from backend.chat.view import AnswerView, summary
from backend.client.answers import CUT, End, Part, Stopwatch, end_of, part_of
from backend.client.log_events import LogEvent
from backend.client.reached import Reached
from backend.client.steps import step_of
from backend.terminal.screen import Screen, Waiting


class WorkerGone(Exception):
    """There is nobody to talk to any more; the message is one sentence."""


class Talk:
    """A conversation and what it has taken so far. Main thread, but for `tell`.

    Args:
        typed: Whether a person types, and may go on after Ctrl-C.
    """

    def __init__(self, conversation: Conversation, screen: Screen, *, typed: bool) -> None:
        self.conversation = conversation
        self.answers = self.tokens = self.prompt_tokens = self.cached_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self._screen, self._typed = screen, typed
        self._waiting: Waiting | None = None

    def tell(self, event: LogEvent) -> None:
        """An event of the worker's log; what is waited for is shown further along."""
        waiting, step = self._waiting, step_of(event)
        if waiting is not None and step is not None:
            waiting.at(step)

    @contextmanager
    def waiting(self, what: str) -> Generator[None]:
        """Show that something takes a while."""
        with self._screen.waiting(what) as waiting:
            self._waiting = waiting
            try:
                yield
            finally:
                self._waiting = None

    def ask(self, worker: Reached) -> bool:
        """Have the conversation answered; whether it was. A stopped answer counts, and what there is of it is kept.

        Raises:
            KeyboardInterrupt: Ctrl-C where nobody types, or just before or after the call.
            WorkerGone: Our own worker has ended.
        """
        try:
            return self._ask(worker)
        except KeyboardInterrupt:
            self._take_back()
            raise

    def _ask(self, worker: Reached) -> bool:
        watch, answer, view = Stopwatch(perf_counter()), Answer(), AnswerView(self._screen)
        try:
            request = request_of(self.conversation)
        except (ValueError, TypeError) as error:
            return self._failed(f"The request cannot be sent: {error}.")
        stopped, end = False, End()
        try:
            # From before the call: what stops it may come while it begins.
            with _stopping() if self._typed else nullcontext(_Stop()) as stop:
                call = worker.stub.PredictStream(request, metadata=worker.connection.metadata)
                stop.is_for(call)
                self._receive(map(part_of, call), watch, answer, view)
                end = end_of(call.trailing_metadata())
        except grpc.RpcError as error:
            view.end()
            failed: Any = error
            stopped = failed.code() is grpc.StatusCode.CANCELLED and worker.ending() is None
            if not stopped:
                return self._lost(worker, worker.sentence(error))
        view.end()
        self._count(watch, answer, end)
        self._keep(answer, is_cut=stopped or end.reason in CUT)
        self._screen.say(summary(watch, answer, end, stopped=stopped))
        return True

    def _keep(self, answer: Answer, *, is_cut: bool) -> None:
        """The answer as far as the conversation can go on from it: a call that was cut has no result to wait for."""
        if is_cut:
            answer.calls.clear()
        if answer.is_empty:
            self._take_back()
        else:
            self.conversation.messages.append(answer.message())

    def _receive(self, parts: Iterator[Part], watch: Stopwatch, answer: Answer, view: AnswerView) -> None:
        first: Part | None = None
        with self.waiting("waiting for the answer"):
            for part in parts:
                watch.saw(part.tokens)
                answer.take(part)
                if part.shows:
                    first = part
                    break
        rest: Iterable[Part] = parts if first is not None else ()
        if first is not None:
            view.show(first)
        for part in rest:
            watch.saw(part.tokens)
            answer.take(part)
            view.show(part)

    def _count(self, watch: Stopwatch, answer: Answer, end: End) -> None:
        self.answers += 1
        self.tokens += watch.tokens
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += end.cached_tokens or 0
        self.drafted_tokens += end.drafted_tokens
        self.accepted_tokens += end.accepted_tokens

    def _lost(self, worker: Reached, sentence: str) -> bool:
        if worker.ending() is not None:
            raise WorkerGone(sentence)
        return self._failed(sentence)

    def _failed(self, sentence: str) -> bool:
        """Say why there is no answer."""
        self._screen.say(sentence, "red")
        self._take_back()
        return False

    def _take_back(self) -> None:
        """Forget a question without an answer: asked again it would be there twice, and many templates take no two."""
        if self.conversation.messages and self.conversation.messages[-1]["role"] == "user":
            self.conversation.messages.pop()


class _Stop:
    """Cancels a call, also one that is yet to come. Main thread."""

    def __init__(self) -> None:
        self._call: grpc.Call | None = None
        self._wanted = False

    def is_for(self, call: grpc.Call) -> None:
        """The call that is meant."""
        self._call = call
        if self._wanted:
            call.cancel()

    def now(self) -> None:
        """End it."""
        self._wanted = True
        if self._call is not None:
            self._call.cancel()


@contextmanager
def _stopping() -> Generator[_Stop]:
    """Let Ctrl-C cancel a call, meanwhile."""
    stop = _Stop()
    before = signal.signal(signal.SIGINT, lambda *_: stop.now())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
