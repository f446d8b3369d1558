"""Calls of service `PromptCache`."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import grpc

from backend.cache_command.answer import EXIT_BAD, EXIT_UNREACHABLE, EXIT_USAGE, Failed
from backend.cache_command.options import WorkerOptions
from backend.cache_command.prefix_files import Prefix
from backend.client.channels import open_channel
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import PromptCacheStub
from backend.terminal.showing import one_line

_UNREACHABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class PromptCacheClient:
    """A worker's prompt cache, as one tenant has it. Every method raises `Failed` where the worker does not do it."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._whose = {"cache_salt": options.salt} if options.salt else {}
        self._channel = open_channel(options)
        self._stub: Any = PromptCacheStub(self._channel)

    def __enter__(self) -> "PromptCacheClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def create(self, name: str, prefix: Prefix) -> pb.NamedPrefix:
        """Prefill a prefix and keep it under a name."""
        given = {"prompt": prefix.prompt, "messages": prefix.messages, "tools": prefix.tools}
        return self._call(self._stub.Create, pb.CreatePrefixRequest, name=name, metadata=self._whose, **given)

    def prefixes(self) -> list[pb.NamedPrefix]:
        """The tenant's named prefixes, oldest first."""
        return list(self._call(self._stub.List, pb.ListPrefixesRequest, metadata=self._whose).prefixes)

    def delete(self, name: str) -> pb.Result:
        """Let a name go."""
        return self._call(self._stub.Delete, pb.DeletePrefixRequest, name=name, metadata=self._whose)

    def clear(self, *, everything: bool) -> pb.Result:
        """Drop what the tenant has cached, or everybody."""
        return self._call(self._stub.Clear, pb.ClearPromptCacheRequest, metadata=self._whose, everything=everything)

    def stats(self) -> pb.PromptCacheStats:
        """The cache's figures since the load."""
        return self._call(self._stub.Stats, pb.PromptCacheStatsRequest)

    def _call(self, method: Callable[..., Any], request: Callable[..., Any], **fields: Any) -> Any:
        try:
            message = request(**fields)
        except ValueError:
            # Arguments and JSON can hold half a surrogate pair.
            raise Failed("a text of the request is no UTF-8", EXIT_USAGE) from None
        try:
            return method(message, timeout=self._options.timeout_s, metadata=self._options.metadata)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def _failed(self, error: Any) -> Failed:
        place, told = self._options.address.target, one_line(error.details() or error.code().name)
        if error.code() in _UNREACHABLE:
            return Failed(f"no answer from a worker at {place}: {told}", EXIT_UNREACHABLE)
        return Failed(f"{place}: {told}", EXIT_BAD)
