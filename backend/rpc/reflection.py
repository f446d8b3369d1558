"""gRPC's server reflection, over messages that we read."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from grpc_reflection.v1alpha import reflection, reflection_pb2

from backend.rpc.methods import Handler, Handlers

REFLECTION_SERVICE: Final = reflection.SERVICE_NAME


def reflection_handlers(services: Iterable[str], make: Handlers) -> Mapping[str, Handler]:
    """The service's methods by name, ready to be registered; it tells of these services."""
    answers: Any = reflection.aio.ReflectionServicer(services).ServerReflectionInfo
    return {
        "ServerReflectionInfo": make.conversation(
            "ServerReflection.ServerReflectionInfo", reflection_pb2.ServerReflectionRequest, answers
        )
    }
