"""Everything that can be wrong with a request or with the worker, as one tree.

`backend.rpc.status` maps each direct subclass of `WorkerError` to a gRPC status code, and a test
holds that table complete. Messages are for the client: one line, ids and numbers, never prompt text.
"""


class WorkerError(Exception):
    """Base of all errors that reach a client.

    Attributes:
        message: One line for the client.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(WorkerError):
    """The request is wrong in itself; sending it again cannot help.

    Attributes:
        field: The wire name of the field at fault, such as `TopP`.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class ModelNotLoaded(WorkerError):
    """No model is loaded. Hosts reload the model on this one, so nothing else may use it."""

    def __init__(self) -> None:
        super().__init__("mlx: model not loaded")


class IdentityMismatch(WorkerError):
    """The request names another model than the one loaded."""

    def __init__(self, requested: str, loaded: str) -> None:
        # Hosts look for the words "model identity mismatch".
        super().__init__(f"model identity mismatch: request wants {requested!r}, {loaded!r} is loaded")


class UnknownService(WorkerError):
    """`grpc.health.v1` was asked about a service that there is not."""

    def __init__(self) -> None:
        super().__init__("unknown service")


class Overloaded(WorkerError):
    """The queue, a memory budget or a reader's buffer is full."""


class WorkerUnavailable(WorkerError):
    """The worker is draining, or its engine is dead."""


class RequestAborted(WorkerError):
    """Free or LoadModel ended the request."""


class RequestCancelled(WorkerError):
    """The client cancelled the request or went away."""

    def __init__(self) -> None:
        super().__init__("request cancelled")


class DeadlineExceeded(WorkerError):
    """The client's deadline passed, in the queue or while the request ran."""

    def __init__(self) -> None:
        super().__init__("deadline exceeded")


class Unauthenticated(WorkerError):
    """The bearer token is missing or wrong."""

    def __init__(self) -> None:
        super().__init__("invalid or missing bearer token")


class Unsupported(WorkerError):
    """The wire has a place for it, this worker does not do it."""


class InternalFault(WorkerError):
    """Our own failure. The message carries an id to find in the log, never a traceback."""


class ModelLoadFailed(WorkerError):
    """LoadModel could not load, and answers `Result{success: false}`; or an idle model could not be loaded again."""
