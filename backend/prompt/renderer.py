"""Renders jobs: by the render process for Jinja templates, in place for templates that are Python functions."""

import contextlib
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

from backend.confined.frames import LENGTH
from backend.confined.memory import resident_bytes
from backend.confined.spawning import close_pipes, kill, spawn
from backend.core.errors import InvalidRequest
from backend.core.silence import Silence
from backend.core.utf8 import utf8_size
from backend.prompt.frames import MEMORY_BYTES, job_frame, rendered_from
from backend.prompt.rendering import Rendered, RenderJob, render_job

_CHUNK = 1 << 16
_CLOSE_S = 1.0
# Above what the process itself watches, which can say more.
_MARGIN = 64 << 20
# How often a job that takes so long is looked at.
_WATCH_S = 0.05
_UNTAKEN = re.compile(r"unexpected keyword argument '(\w+)'")


class RenderingStopped(InvalidRequest):
    """The job took too long, or too much memory, and was stopped."""


class Renderer(Protocol):
    """Turns jobs into text. `prep` thread only."""

    def start(self) -> None:
        """Get ready early; not needed before `render`."""
        ...

    def render(self, job: RenderJob) -> Rendered:
        """Render a job.

        Raises:
            InvalidRequest: The template refuses or fails.
            RenderingStopped: It takes too long, or too much memory.
        """
        ...

    def close(self) -> None:
        """Let go of what is held. `render` may start it again."""
        ...


class _ProcessDied(Exception):
    """The render process ended, or was killed, before it answered."""


class _TooLarge(Exception):
    """The render process took more memory than it may."""


class ProcessRenderer:
    """Owns one render process. `prep` thread only.

    The process bounds its own memory where the system lets it (Linux). It is watched from here too: macOS enforces no
    limit, and what a thread of the process itself sees may come too late.

    Invariant: between calls the process is waiting for a job, or there is none.

    Args:
        program: The module that the process runs.
        memory_bytes: What it may have resident.
    """

    def __init__(
        self, program: str = "backend.prompt.render_process", *, memory_bytes: int = MEMORY_BYTES + _MARGIN
    ) -> None:
        self._program = program
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The render process, if one runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process without waiting until it is up (it takes about 0.1 s)."""
        if self._process is None:
            self._process = _spawn(self._program)

    def render(self, job: RenderJob) -> Rendered:
        try:
            frame = job_frame(job)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("Messages", f"cannot be passed to the chat template: {error}") from error
        # Twice, because the process may have died while it was idle, which is not this request's fault.
        for _ in range(2):
            with contextlib.suppress(_ProcessDied):
                return self._render_once(frame, job.seconds)
        raise InvalidRequest("Messages", "the chat template broke the process that renders it")

    def _render_once(self, frame: bytes, seconds: float) -> Rendered:
        self.start()
        assert self._process is not None
        answered = False
        try:
            answer = rendered_from(_exchange(self._process, frame, seconds, self._memory_bytes))
            answered = True
        except TimeoutError as error:
            raise RenderingStopped("Messages", f"the chat template took over {seconds:g} s") from error
        except _TooLarge as error:
            size = self._memory_bytes >> 20
            raise RenderingStopped("Messages", f"the chat template took over {size} MiB of memory") from error
        finally:
            if not answered:
                self._kill()
                self.start()
        if isinstance(answer, str):
            raise InvalidRequest("Messages", answer)
        return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        kill(process)
        close_pipes(process)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        close_pipes(process)
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            kill(process)


def _spawn(program: str) -> subprocess.Popen[bytes]:
    process = spawn(program)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    return process


def _exchange(process: subprocess.Popen[bytes], frame: bytes, seconds: float, memory_bytes: int) -> memoryview:
    """Write a frame and read one's body back.

    Raises:
        TimeoutError: It took longer than `seconds`.
        _TooLarge: More than `memory_bytes` were resident.
        _ProcessDied: A pipe closed.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    source, sink = process.stdout.fileno(), process.stdin.fileno()
    unsent = memoryview(frame)
    received = bytearray()
    silence, began = Silence(time.monotonic, _WATCH_S), time.monotonic()
    with selectors.PollSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(sink, selectors.EVENT_WRITE)
        while len(received) < LENGTH.size or len(received) < LENGTH.size + LENGTH.unpack_from(received)[0]:
            left = seconds - silence.since(began)
            if left <= 0:
                raise TimeoutError
            ready = selector.select(min(left, _WATCH_S))
            if not ready and (resident_bytes(process.pid) or 0) > memory_bytes:
                raise _TooLarge
            for key, _ in ready:
                if key.fd == source:
                    received += _read_some(source)
                    continue
                unsent = unsent[_write_some(sink, unsent) :]
                if not unsent:
                    selector.unregister(sink)
    return memoryview(received)[LENGTH.size :]


def _read_some(source: int) -> bytes:
    data = os.read(source, _CHUNK)
    if not data:
        raise _ProcessDied
    return data


def _write_some(sink: int, unsent: memoryview) -> int:
    try:
        return os.write(sink, unsent[:_CHUNK])
    except BrokenPipeError as error:
        raise _ProcessDied from error


class FunctionRenderer:
    """Templates that are Python functions of the model's own library: nothing to sandbox, nothing to kill.

    A variable that the function does not take is left out, as a Jinja template would not look at it.
    """

    def __init__(self, function: Callable[..., str]) -> None:
        self._function = function
        self._untaken: frozenset[str] = frozenset()

    def start(self) -> None:
        pass

    def render(self, job: RenderJob) -> Rendered:
        def render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
            variables = {name: value for name, value in job.variables.items() if name not in self._untaken}
            try:
                return self._function(messages, add_generation_prompt=add_generation_prompt, **variables)
            except TypeError as error:
                # What is handed on by `**kwargs` no signature tells.
                found = _UNTAKEN.search(str(error))
                if found is None or found[1] not in variables:
                    raise
                self._untaken |= {found[1]}
            return render(messages, add_generation_prompt)

        try:
            rendered = render_job(render, job)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidRequest("Messages", f"chat template failed: {type(error).__name__}: {reason}") from error
        if utf8_size(rendered.text) > job.max_bytes:
            raise InvalidRequest("Messages", f"the rendered prompt is over the limit of {job.max_bytes} bytes")
        return rendered

    def close(self) -> None:
        pass
