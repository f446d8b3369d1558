"""The life of the worker: listen, serve, and stop for one of five reasons."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from backend.config import MetricsConfig
from backend.core.logline import logline
from backend.process.early_signals import STOPS, means_stop
from backend.process.exit_codes import ExitCode
from backend.process.orphans import INIT, reap_orphans
from backend.process.parent_watch import parent_gone
from backend.process.settings import Settings
from backend.rpc.address import AddressError
from backend.rpc.engine_api import EngineApi
from backend.rpc.server import WorkerServer

if TYPE_CHECKING:
    from backend.metrics.endpoint import MetricsEndpoint

log = logging.getLogger(__name__)


class StartableEngine(EngineApi, Protocol):
    """An engine that starts when told, so that the port can be open before."""

    def start(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the worker stops, in one sentence, and what the process tells its parent."""

    code: ExitCode
    sentence: str
    grace_s: float = 0.0


def start_metrics(config: MetricsConfig, engine: EngineApi, server: WorkerServer) -> "MetricsEndpoint | None":
    """Serve the operator's port, where there is to be one and no other process has it.

    Raises:
        AddressError: It cannot be had on this machine.
    """
    if config.port is None:
        return None
    # Here, not above: without such a port nothing of HTTP and Prometheus is in the process.
    from backend.metrics.endpoint import EndpointError, MetricsEndpoint
    from backend.metrics.exposition import Exposition

    endpoint = MetricsEndpoint(config.address, config.port, Exposition(engine.figures, server.calls.copy).scrape)
    try:
        url = endpoint.start()
    except EndpointError as error:
        if not error.in_use:
            raise AddressError(str(error)) from error
        # Hosts start a process for each model with one environment: the second has to serve its model all the same.
        log.warning(logline("metrics_off", text=str(error)))
        return None
    log.info(logline("metrics", url=url))
    if not ip_address(config.address).is_loopback:
        log.warning(logline("metrics_exposed", address=config.address, text="whoever reaches it can read it"))
    return endpoint


class Worker:
    """One run of the process. Event loop only."""

    def __init__(self, settings: Settings, make_engine: Callable[[], StartableEngine], *, parent: int) -> None:
        self._settings = settings
        self._make_engine = make_engine
        self._parent = parent
        self._signalled: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()

    async def run(self) -> Ending:
        """Serve until there is a reason to stop, then stop."""
        engine = self._make_engine()
        try:
            server = WorkerServer(self._settings.server, engine, self._settings.loads)
            metrics = start_metrics(self._settings.metrics, engine, server)
            address = await server.start()
        except AddressError as error:
            return Ending(ExitCode.ADDRESS, str(error))
        self._take_signals()
        engine.start()
        log.info(logline("ready", address=address, pid=os.getpid()))
        ending = await self._first_ending(engine, server)
        log.info(logline("stopping", code=int(ending.code), reason=ending.sentence))
        await self._stop(server, engine, ending)
        if metrics is not None:
            metrics.close()
        return ending

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in filter(means_stop, STOPS):
            loop.add_signal_handler(number, self._signal, number)
        if os.getpid() == INIT and sys.platform == "linux":
            loop.add_signal_handler(signal.SIGCHLD, reap_orphans)

    def _signal(self, number: signal.Signals) -> None:
        if self._signalled.done():
            self._hurry.set()
        else:
            self._signalled.set_result(number)

    async def _first_ending(self, engine: EngineApi, server: WorkerServer) -> Ending:
        endings = (self._on_signal(), self._on_death(engine), self._on_server_end(server))
        tasks = [asyncio.create_task(ending) for ending in endings]
        if self._settings.server.parent_watch_s is not None:
            tasks.append(asyncio.create_task(self._on_orphaned(self._settings.server.parent_watch_s)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()

    async def _on_signal(self) -> Ending:
        number = await asyncio.shield(self._signalled)
        return Ending(ExitCode.STOPPED, f"stopped by {number.name}", self._settings.server.grace_s)

    async def _on_death(self, engine: EngineApi) -> Ending:
        return Ending(ExitCode.ENGINE_DEAD, await engine.died())

    async def _on_server_end(self, server: WorkerServer) -> Ending:
        # A process that lives and listens no more would be taken for one that serves.
        return Ending(ExitCode.FAULT, await server.ended())

    async def _on_orphaned(self, interval_s: float) -> Ending:
        await parent_gone(interval_s, parent=self._parent)
        return Ending(ExitCode.PARENT_GONE, "the process that started this worker is gone")

    async def _stop(self, server: WorkerServer, engine: EngineApi, ending: Ending) -> None:
        # All of them end with this process; a loop that is being closed cannot be told.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        draining = asyncio.create_task(server.drain(ending.grace_s))
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([draining, hurrying], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done() or not draining.result():
            log.warning(logline("cutting_requests", running=server.running_calls))
        hurrying.cancel()
        draining.cancel()
        await engine.close()
        await server.stop()
