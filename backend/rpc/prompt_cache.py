"""The service `backend.PromptCache`: named prefixes, and what the prompt cache holds."""

import time
from collections.abc import Mapping
from typing import Final

from backend.core.errors import InvalidRequest, ModelNotLoaded
from backend.pb import backend_pb2 as pb
from backend.rpc.engine_api import EngineApi
from backend.rpc.identity import request_id_of
from backend.rpc.methods import Context, Handler, Handlers, Received
from backend.rpc.off_loop import OffLoop
from backend.translate import prefixes
from backend.translate.cache_scope import checked_name, tenant_of
from backend.translate.requests import deadline_of

PROMPT_CACHE_SERVICE: Final = "backend.PromptCache"


class PromptCacheService:
    """`backend.PromptCache`. Event loop only."""

    def __init__(self, engine: EngineApi, off_loop: OffLoop) -> None:
        self._engine = engine
        self._off_loop = off_loop

    def handlers(self, make: Handlers) -> Mapping[str, Handler]:
        """All methods by name, ready to be registered."""
        return {
            "Create": make.unary("PromptCache.Create", pb.CreatePrefixRequest, self.create),
            "List": make.unary("PromptCache.List", pb.ListPrefixesRequest, self.list_all),
            "Delete": make.unary("PromptCache.Delete", pb.DeletePrefixRequest, self.delete),
            "Clear": make.unary("PromptCache.Clear", pb.ClearPromptCacheRequest, self.clear),
            "Stats": make.unary("PromptCache.Stats", pb.PromptCacheStatsRequest, self.stats),
        }

    async def create(self, request: Received[pb.CreatePrefixRequest], context: Context) -> pb.NamedPrefix:
        """Prefill a prefix and keep it under its name."""
        wire, model = request.message, self._engine.model_config()
        if model is None:
            raise ModelNotLoaded
        deadline = deadline_of(context.time_remaining(), time.monotonic())
        request_id = request_id_of("")
        context.set_trailing_metadata((("x-request-id", request_id),))
        asked = await self._off_loop.run(
            request.size, lambda: prefixes.prefix_request(wire, model, request_id=request_id, deadline=deadline)
        )
        await self._engine.create_prefix(asked)
        made = [facts for facts in await self._engine.list_prefixes(asked.tenant) if facts.name == wire.name]
        return prefixes.named_prefix(made[0]) if made else pb.NamedPrefix(name=wire.name)

    async def list_all(self, request: Received[pb.ListPrefixesRequest], context: Context) -> pb.ListPrefixesResponse:
        """The tenant's named prefixes."""
        found = await self._engine.list_prefixes(tenant_of(request.message.metadata))
        return pb.ListPrefixesResponse(prefixes=map(prefixes.named_prefix, found))

    async def delete(self, request: Received[pb.DeletePrefixRequest], context: Context) -> pb.Result:
        """Let a name go; a name that is not there is an answer, not an error."""
        name = checked_name("name", request.message.name)
        if await self._engine.delete_prefix(tenant_of(request.message.metadata), name):
            return pb.Result(success=True, message="prefix deleted")
        return pb.Result(success=False, message="no prefix of that name")

    async def clear(self, request: Received[pb.ClearPromptCacheRequest], context: Context) -> pb.Result:
        """Drop what a tenant, or everybody, has cached."""
        wire = request.message
        if wire.everything and wire.metadata:
            raise InvalidRequest("everything", "goes without a tenant in metadata")
        await self._engine.clear_cache(None if wire.everything else tenant_of(wire.metadata))
        return pb.Result(success=True, message="prompt cache cleared")

    async def stats(self, request: Received[pb.PromptCacheStatsRequest], context: Context) -> pb.PromptCacheStats:
        """What the cache did since the load."""
        return prefixes.stats(await self._engine.cache_report())
