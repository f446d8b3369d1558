"""The channel to a worker, and what its refusals say."""

from typing import Any, Final

import grpc

from backend.client.connection import Connection

# The worker's own bounds are less; what it answers may be larger than gRPC's 4 MiB.
_MESSAGE_BYTES: Final = 64 << 20


def open_channel(connection: Connection) -> grpc.Channel:
    """A channel for calls that block."""
    target, options, credentials = connection.address.target, _options(connection), _credentials(connection)
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def open_async_channel(connection: Connection) -> grpc.aio.Channel:
    """A channel for an event loop."""
    target, options, credentials = connection.address.target, _options(connection), _credentials(connection)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def sentence_of(error: grpc.RpcError, place: str) -> str:
    """What went wrong with a call, for people."""
    failed: Any = error  # every RpcError that a call raises is one; their types do not say so
    code, details = failed.code(), " ".join((failed.details() or "").split())
    match code:
        case grpc.StatusCode.UNAVAILABLE if "connect" in details.lower() or "socket" in details.lower():
            return f"No worker answers at {place}."
        case grpc.StatusCode.UNAUTHENTICATED:
            return f"The worker at {place} wants another token: --token-file names a file with it."
        case grpc.StatusCode.CANCELLED:
            return "The call was cancelled."
        case _:
            return f"{details or code.name}."


def _options(connection: Connection) -> list[tuple[str, int]]:
    sizes = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    # A proxy of the environment cannot reach what only this machine can.
    return [*sizes, ("grpc.enable_http_proxy", 0)] if connection.address.is_local else sizes


def _credentials(connection: Connection) -> grpc.ChannelCredentials | None:
    return None if connection.tls_ca is None else grpc.ssl_channel_credentials(root_certificates=connection.tls_ca)
