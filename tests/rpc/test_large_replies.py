"""Where replies are built: large ones on a thread, for the event loop answers everybody."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from backend.config import ModelConfig
from backend.pb import backend_pb2 as pb
from backend.rpc.held_messages import HeldMessages
from backend.rpc.methods import Received
from backend.rpc.off_loop import INLINE_BYTES, OffLoop
from backend.rpc.servicer import BackendService
from backend.translate.options import LoadDefaults
from tests.rpc.fake_engine import FakeEngine


class Watched(OffLoop):
    """Says on which thread each message was made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, str] = {}

    async def run(self, size: int, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See OffLoop."""

        def watched() -> Any:
            made = work(*args, **kwargs)
            self.made[type(made).__name__] = threading.current_thread().name.partition("_")[0]
            return made

        return await super().run(size, watched)


@pytest.mark.parametrize("method", ["tokenize_string", "detokenize"])
@pytest.mark.parametrize("large", [False, True])
def test_a_large_reply_is_built_off_the_loop(method: str, large: bool) -> None:
    n = INLINE_BYTES + 1 if large else 8

    async def run() -> None:
        engine, off_loop = FakeEngine(), Watched()
        await engine.load(ModelConfig(identity="m", candidates=("m",)))
        ask: Callable[..., Awaitable[Any]] = getattr(BackendService(engine, LoadDefaults(), off_loop), method)
        tokens = method == "detokenize"
        message = pb.DetokenizeRequest(tokens=[97] * n) if tokens else pb.PredictOptions(Prompt="a" * n)
        try:
            reply = await ask(Received(message, message.ByteSize(), HeldMessages().begin()), None)
        finally:
            off_loop.close()
        assert reply == (
            pb.DetokenizeResponse(content="a" * n) if tokens else pb.TokenizationResponse(length=n, tokens=[97] * n)
        )
        assert off_loop.made[type(reply).__name__] == ("wire" if large else threading.current_thread().name)

    asyncio.run(run())
