"""The one table from our errors to gRPC status codes. No handler chooses a code of its own."""

from collections.abc import Mapping
from typing import Final

import grpc

from backend.core import errors
from backend.core.logline import visible

MAX_DETAILS_BYTES = 1024

# Hosts act on codes: FAILED_PRECONDITION and NOT_FOUND reload the model, UNAVAILABLE evicts the worker.
STATUS: Final[Mapping[type[errors.WorkerError], grpc.StatusCode]] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotLoaded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IdentityMismatch: grpc.StatusCode.NOT_FOUND,
    errors.UnknownService: grpc.StatusCode.NOT_FOUND,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.WorkerUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.RequestAborted: grpc.StatusCode.ABORTED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalFault: grpc.StatusCode.INTERNAL,
    # LoadModel answers it as a Result; of an idle model that cannot be woken up, a request has this code.
    errors.ModelLoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: errors.WorkerError) -> tuple[grpc.StatusCode, str]:
    """Code and details for the client."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind], one_line(error.message)
    return grpc.StatusCode.INTERNAL, one_line(error.message)


def one_line(text: str) -> str:
    """Text as one line of at most 1 KiB in UTF-8, all of which shows."""
    # Cut first: what is longer is not worth looking at.
    line = visible(" ".join(text[: 4 * MAX_DETAILS_BYTES].split()))
    encoded = line.encode("utf-8", "replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return encoded.decode()
    return encoded[: MAX_DETAILS_BYTES - 3].decode("utf-8", "ignore") + "..."
