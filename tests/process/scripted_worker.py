"""A worker process whose engine is scripted: `python -m tests.process.scripted_worker --addr ...`.

A request's prompt says what happens: `wait` waits until the engine is closed, `die` kills the engine, `deaf`
ends gRPC's server, anything else is answered. A model is loaded from the start.
"""

import asyncio
import gc

from backend.__main__ import main
from backend.config import ModelConfig
from backend.core.request import GenerationRequest
from backend.process.settings import Settings
from backend.rpc.server import WorkerServer
from tests.rpc.fake_engine import FakeAnswer, FakeEngine, answer


class ScriptedEngine(FakeEngine):
    async def submit(self, request: GenerationRequest) -> FakeAnswer:
        self.script = [*answer("started")[:1], None] if request.prompt == "wait" else answer("Hel", "lo")
        stream = await super().submit(request)
        if request.prompt == "die":
            self.alive = False
            assert self.death is not None
            self.death.set_result("the engine thread died: told to")
        if request.prompt == "deaf":
            (server,) = (each for each in gc.get_objects() if isinstance(each, WorkerServer))
            assert server._server is not None
            self._stopping = asyncio.create_task(server._server.stop(None))
        return stream


def make_engine(settings: Settings) -> ScriptedEngine:
    engine = ScriptedEngine()
    engine._config = ModelConfig(identity="m", candidates=("m",), engine=settings.loads.engine)
    return engine


if __name__ == "__main__":
    main(make_engine=make_engine)
