"""gRPC's server, but one that the path of a call cannot end. All that knows how `grpc.aio` takes calls in.

`grpc.aio` decodes the path of each call that no registered method has, in the loop that takes calls in. A path that is
not UTF-8, which needs no token and no more than a frame, ends that loop and the server with it. So every method is
registered, and what is left has a path that nobody serves, whatever it is: it is answered without a look at it.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc as _cygrpc  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from grpc.aio import _server as _aio_server  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

from backend.core.held_tasks import hold

_grpc: Any = _cygrpc
_aio: Any = _aio_server
_LAST_TURNS_S = 0.3
# The one that was stopped last. Freeing it closes what the loop may just be reading from; where a call's error holds it
# in a cycle, the collector does that, on any thread.
_stopped: list[grpc.aio.Server] = []


def _is_no_header(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


# Headers that are not UTF-8 are logged whole, and decoded all the same: prompts and tokens may be among them.
logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_header)


class _Calls(_grpc.AioServer):  # pyright: ignore[reportUntypedBaseClass]
    """Takes calls in; one of no registered method is refused, and never given to the loop."""

    refusing: set[asyncio.Task[None]]
    through: tuple[grpc.aio.ServerInterceptor, ...]

    async def _request_call(self) -> Any:
        loop, no_methods = asyncio.get_running_loop(), _grpc._MethodResolver([], {})  # noqa: SLF001
        while True:
            call = await super()._request_call()
            # Through the interceptors: without a token nobody learns which methods there are.
            refusal = _grpc._handle_rpc("", no_methods, self.through, call, loop, False)  # noqa: SLF001
            hold(self.refusing, loop.create_task(_grpc._schedule_rpc_coro(refusal, call, loop, "")))  # noqa: SLF001


class _Server(_aio.Server):  # pyright: ignore[reportUntypedBaseClass]
    def __init__(self, through: tuple[grpc.aio.ServerInterceptor, ...], options: Sequence[tuple[str, Any]]) -> None:
        # Not the parent's, which makes a server that is never freed unless it is started.
        self._loop = asyncio.get_running_loop()
        self._server = _Calls(self._loop, None, (), through, tuple(options), None)
        self._server.refusing, self._server.through = set(), through


def grpc_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]
) -> grpc.aio.Server:
    """A server of no method yet; those are registered before it starts. Event loop only."""
    server: Any = _Server(tuple(interceptors), options)
    return server


async def stop_now(server: grpc.aio.Server) -> None:
    """Cancel every call and close; what gRPC does for calls has ended then, or has had a moment to. Event loop only."""
    await server.stop(None)
    _stopped[:] = [server]
    # Where the loop closes before these have seen that their call is cancelled, gRPC takes their own cancellation for
    # an error of the method and prints a traceback for each.
    calls = [task for task in asyncio.all_tasks() if _is_a_calls(task)]
    if calls:
        await asyncio.wait(calls, timeout=_LAST_TURNS_S)


def _is_a_calls(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == _grpc._schedule_rpc_coro.__name__  # noqa: SLF001
