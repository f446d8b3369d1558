"""The service `grpc.health.v1.Health`.

Not gRPC's own servicer: that one holds a lock while it writes, so a client that watches and takes nothing holds up all
who watch the same service, and with them the server's stop, which tells them.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Final

from grpc_health.v1 import health_pb2

from backend.core.errors import UnknownService
from backend.rpc.methods import Context, Handler, Handlers, Received

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
_Asked = health_pb2.HealthCheckRequest
_Told = health_pb2.HealthCheckResponse


class HealthService:
    """Whether services serve. Event loop only."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()  # a new one after each change

    def handlers(self, make: Handlers) -> Mapping[str, Handler]:
        """The methods by name, ready to be registered."""
        return {
            "Check": make.unary("Health.Check", _Asked, self.check),
            "Watch": make.stream("Health.Watch", _Asked, self.watch),
        }

    def tell(self, services: Iterable[str], *, serving: bool) -> None:
        """Have these say so from now on."""
        self._serving.update(dict.fromkeys(services, serving))
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(self, request: Received[_Asked], context: Context) -> _Told:
        """One service.

        Raises:
            UnknownService: There is none of this name.
        """
        if request.message.service not in self._serving:
            raise UnknownService
        return self._told(request.message.service)

    async def watch(self, request: Received[_Asked], context: Context) -> AsyncGenerator[_Told]:
        """One service, now and whenever it changes."""
        last: _Told | None = None
        while True:
            changed, now = self._changed, self._told(request.message.service)
            if now != last:
                yield now
            last = now
            await changed.wait()

    def _told(self, service: str) -> _Told:
        if service not in self._serving:
            return _Told(status=_Told.SERVICE_UNKNOWN)
        return _Told(status=_Told.SERVING if self._serving[service] else _Told.NOT_SERVING)
