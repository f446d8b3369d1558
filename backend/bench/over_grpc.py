"""A worker, or any server that speaks its wire, as a target."""

import time
from typing import Any

import grpc

from backend.bench.measured import Measured
from backend.bench.plan import Planned
from backend.client.answers import end_of, part_of
from backend.client.channels import open_async_channel, sentence_of
from backend.client.connection import Connection
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub


class GrpcTarget:
    """Asks over gRPC. Event loop only.

    Args:
        salt: The tenant as which it asks; empty for none.
        as_chat: Whether prompts go through the chat template.
    """

    def __init__(self, name: str, connection: Connection, *, salt: str, as_chat: bool) -> None:
        self.name = name
        self._connection, self._as_chat = connection, as_chat
        self._metadata = {"cache_salt": salt} if salt else {}

    async def open(self) -> None:
        """Ready to be asked."""
        self._channel = open_async_channel(self._connection)
        self._stub: Any = BackendStub(self._channel)  # the generated class serves both kinds of channel

    async def close(self) -> None:
        """Let the connection go."""
        await self._channel.close()

    async def answer(self, planned: Planned, measured: Measured) -> None:
        """Run one request to its end; what it took, and what went wrong, is in `measured`."""
        call = self._stub.PredictStream(self._request(planned), metadata=self._connection.metadata)
        try:
            async for reply in call:
                part = part_of(reply)
                measured.prompt_tokens = part.prompt_tokens
                measured.saw(part.tokens)
            end = end_of(await call.trailing_metadata())
            measured.cached_tokens = end.cached_tokens
            measured.drafted_tokens, measured.accepted_tokens = end.drafted_tokens, end.accepted_tokens
            measured.ended = time.perf_counter()
        except grpc.RpcError as error:
            measured.error = sentence_of(error, self._connection.address.target)
        finally:
            call.cancel()

    def _request(self, planned: Planned) -> pb.PredictOptions:
        fields: dict[str, Any] = {"Tokens": planned.answer_tokens, "IgnoreEOS": True, "Metadata": self._metadata}
        if self._as_chat:
            message = pb.Message(role="user", content=planned.prompt)
            return pb.PredictOptions(Messages=[message], UseTokenizerTemplate=True, **fields)
        return pb.PredictOptions(Prompt=planned.prompt, **fields)
