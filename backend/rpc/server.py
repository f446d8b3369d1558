"""The gRPC server: what it listens on, which services it has, and how it stops."""

import asyncio
import logging
from pathlib import Path
from typing import Final

import grpc

from backend.config import ServerConfig
from backend.core.logline import logline
from backend.rpc.address import Address, AddressError, SocketClaim
from backend.rpc.auth import TokenInterceptor
from backend.rpc.calls import CallCounts
from backend.rpc.engine_api import EngineApi
from backend.rpc.gate import Gate
from backend.rpc.grpc_server import grpc_server, stop_now
from backend.rpc.health import HEALTH_SERVICE, HealthService
from backend.rpc.held_messages import HeldMessages
from backend.rpc.methods import Handlers
from backend.rpc.off_loop import INLINE_BYTES, OffLoop
from backend.rpc.prompt_cache import PROMPT_CACHE_SERVICE, PromptCacheService
from backend.rpc.receiving import SMALL_READ_TOGETHER, Receiver
from backend.rpc.reflection import REFLECTION_SERVICE, reflection_handlers
from backend.rpc.servicer import BACKEND_SERVICE, INFO_SERVICE, BackendService, InfoService
from backend.translate.options import LoadDefaults
from backend.translate.wire_limits import MAX_REQUEST_BYTES

log = logging.getLogger(__name__)

_SERVICES: Final = (BACKEND_SERVICE, INFO_SERVICE, PROMPT_CACHE_SERVICE)
_WHOLE_SERVER: Final = ""  # the name that grpc.health.v1 gives it
# What calls may still take to end once the engine has been told; they have a terminal event by then.
_LAST_CALLS_S: Final = 0.3
# Calls of one connection at a time: more than the default rows and queue, so that a full queue is still told, and
# few enough that a client which opens and resets calls for ever does not fill the server's own queue.
_STREAMS_A_CONNECTION: Final = 1280
# Calls that no handler has taken yet. From the first number on gRPC ends calls CANCELLED by chance, whosever they are.
_PENDING_CALLS: Final = 16_384
# Nor by their age, which is 30 s without this: a busy loop is no reason, and clients have deadlines of their own.
_PENDING_S: Final = 86_400


class WorkerServer:
    """One listening server. Event loop only; `start` once, then `drain`, then `stop`."""

    def __init__(self, config: ServerConfig, engine: EngineApi, load_defaults: LoadDefaults) -> None:
        self._config = config
        self._address = Address.parse(config.address)
        self._engine = engine
        self._off_loop = OffLoop()
        self._backend = BackendService(engine, load_defaults, self._off_loop)
        self._prompt_cache = PromptCacheService(engine, self._off_loop)
        self._info = InfoService(engine)
        self._gate = Gate()
        self.calls = CallCounts()
        self._claim = SocketClaim(self._address.path) if self._address.path else None
        self._health = HealthService()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Listen and serve; the address as bound.

        Raises:
            AddressError: It is not safe, or cannot be had.
        """
        self._check_tls()
        self._check_exposure()
        interceptors = [TokenInterceptor(self._config.token, self.calls.unauthenticated)] if self._config.token else []
        server = grpc_server(interceptors, _options(self._config))
        make = Handlers(self._gate, self._off_loop, self.calls, Receiver(), HeldMessages())
        for name, service in zip(_SERVICES, (self._backend, self._info, self._prompt_cache), strict=True):
            server.add_registered_method_handlers(name, dict(service.handlers(make)))
        server.add_registered_method_handlers(HEALTH_SERVICE, dict(self._health.handlers(self._for_grpcs_own())))
        if self._reflects():
            reflected = reflection_handlers((*_SERVICES, HEALTH_SERVICE, REFLECTION_SERVICE), self._for_grpcs_own())
            server.add_registered_method_handlers(REFLECTION_SERVICE, dict(reflected))
        if self._claim is not None:
            self._claim.take()
        port = self._bind(server)
        await server.start()
        self._server = server
        self._health.tell((_WHOLE_SERVER, *_SERVICES), serving=True)
        return self._address.on_port(port)

    async def drain(self, grace_s: float) -> bool:
        """Take no more calls and let the running ones end, `grace_s` seconds at most; whether all did."""
        self._gate.close(self._engine.ending)
        self._health.tell((_WHOLE_SERVER, *_SERVICES), serving=False)
        return await self._gate.wait_idle(grace_s)

    async def stop(self) -> None:
        """Close. What still runs gets a moment to send its end, which the closed engine has given it."""
        self._gate.close()
        await self._gate.wait_idle(_LAST_CALLS_S)
        if self._server is not None:
            await stop_now(self._server)
        self._off_loop.close()
        if self._claim is not None:
            self._claim.release()

    async def ended(self) -> str:
        """Why gRPC's own server has ended without having been told to; waits for it."""
        assert self._server is not None
        # Whoever is cancelled in there takes the future along that `stop` waits for.
        waiting = asyncio.create_task(self._server.wait_for_termination())
        try:
            await asyncio.shield(waiting)
        except Exception as error:
            log.debug("server", exc_info=error)
            return f"gRPC's server has ended: {type(error).__name__}"
        return "gRPC's server has ended"

    @property
    def running_calls(self) -> int:
        """Calls that have started and not ended."""
        return self._gate.running

    def _check_tls(self) -> None:
        certificate, key = self._config.tls_certificate, self._config.tls_key
        if bool(certificate) != bool(key):
            missing, there = ("key", "certificate") if certificate else ("certificate", "key")
            raise AddressError(f"--tls-{missing} is missing: --tls-{there} is set, and TLS needs both")
        if self._config.tls_client_ca and not certificate:
            raise AddressError("--tls-client-ca needs --tls-certificate and --tls-key")

    def _check_exposure(self) -> None:
        if self._address.is_local:
            return
        if not self._config.token:
            raise AddressError(
                f"refusing to listen on {self._config.address} without a token: "
                "set LOCALAI_GRPC_AUTH_TOKEN, or use a loopback address"
            )
        if not self._config.tls_certificate:
            if self._config.require_tls:
                raise AddressError("--require-tls needs --tls-certificate and --tls-key")
            log.warning(logline("no_tls", address=self._config.address, text="the token travels in clear text"))

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._config.tls_certificate:
                port = server.add_secure_port(self._address.target, _credentials(self._config))
            else:
                port = server.add_insecure_port(self._address.target)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {self._config.address}: address in use or not ours") from error
        if port == 0:
            raise AddressError(f"cannot listen on {self._config.address}: address in use or not ours")
        return port

    def _reflects(self) -> bool:
        return self._address.is_local if self._config.reflection is None else self._config.reflection

    def _for_grpcs_own(self) -> Handlers:
        """For one of gRPC's own services: open to the end, not counted, and it holds up none but its own calls."""
        # No single message is more than what all may have together.
        messages = HeldMessages(INLINE_BYTES)
        return Handlers(Gate(), self._off_loop, CallCounts(), Receiver(SMALL_READ_TOGETHER), messages)


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(config.max_message_bytes, MAX_REQUEST_BYTES)),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Without it two workers hold one port without an error.
        ("grpc.so_reuseport", 0),
        # Go clients ping as often as every 10 s, also without a call; answering with GOAWAY helps nobody.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", _STREAMS_A_CONNECTION),
        # With it a client may send megabytes of a call that nobody reads. What is read may be sent whole without it.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING_CALLS),
        ("grpc.server_max_unrequested_time_in_server", _PENDING_S),
    ]


def _credentials(config: ServerConfig) -> grpc.ServerCredentials:
    try:
        key, certificate = (Path(config.tls_key).read_bytes(), Path(config.tls_certificate).read_bytes())
        clients = Path(config.tls_client_ca).read_bytes() if config.tls_client_ca else None
    except OSError as error:
        raise AddressError(f"TLS: {error.filename}: {error.strerror}") from error
    return grpc.ssl_server_credentials([(key, certificate)], clients, require_client_auth=clients is not None)
