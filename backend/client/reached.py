"""The worker that a command talks to: one that runs, or one of its own with a model that it loads first."""

import argparse
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from backend.client.channels import open_channel, sentence_of
from backend.client.connection import Connection, add_arguments, connection_of
from backend.client.log_events import LogEvent
from backend.client.own_worker import OwnWorker, WorkerEnded
from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub, InfoStub
from backend.rpc.address import AddressError

_CALL_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2
# A connection breaks a moment before its process is gone.
_LAST_WORDS_SECONDS: Final = 2.0


class NotReached(Exception):
    """There is no worker with a model to talk to; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which worker is meant.

    Attributes:
        connection: To one that runs; None where it is one of our own.
        model: Directory or hub name that our own loads.
        options: Of that load, `key:value`.
    """

    connection: Connection | None = None
    model: str = ""
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A worker that has a model."""

    connection: Connection
    channel: grpc.Channel
    info: pb.InfoResponse
    own: OwnWorker | None = None

    @property
    def stub(self) -> Any:
        """For calls of service Backend."""
        return BackendStub(self.channel)

    def sentence(self, error: grpc.RpcError) -> str:
        """What went wrong with a call."""
        failed: Any = error
        gone = failed.code() is grpc.StatusCode.UNAVAILABLE
        ended = self.ending(_LAST_WORDS_SECONDS if gone else 0.0)
        return ended or sentence_of(error, self.connection.address.target)

    def ending(self, seconds: float = 0.0) -> str | None:
        """How our own worker ended, where it has, or does within so long."""
        return self.own.ending(seconds) if self.own is not None else None

    def look(self) -> pb.InfoResponse:
        """Its figures now; raises RpcError."""
        return InfoStub(self.channel).Get(pb.InfoRequest(), timeout=_CALL_SECONDS, metadata=self.connection.metadata)


def add_where_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `where_of` reads."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model", help="directory or hub name: starts a worker of its own that loads it, and stops it at the end"
    )
    add_arguments(parser, address=which)
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY:VALUE", help="of that load; may be given several times"
    )


def where_of(given: argparse.Namespace, environment: Mapping[str, str]) -> Where:
    """Which worker arguments and environment mean.

    Raises:
        ValueError: They are wrong.
    """
    if given.model is not None:
        return Where(model=given.model, options=tuple(given.option), environment=environment)
    if given.option:
        raise ValueError("--option goes with --model")
    try:
        return Where(connection=connection_of(given, environment))
    except (AddressError, OSError) as error:
        raise ValueError(str(error)) from None


@contextmanager
def reached(where: Where, tell: Callable[[LogEvent], None]) -> Generator[Reached]:
    """The worker, as long as it is needed; our own is stopped at the end, whatever happens.

    Args:
        tell: Gets the events of our own worker's log, on another thread.

    Raises:
        NotReached: No worker answers, or it has no model.
    """
    if where.connection is not None:
        with open_channel(where.connection) as channel:
            yield _with_model(Reached(connection=where.connection, channel=channel, info=pb.InfoResponse()))
        return
    try:
        with OwnWorker(where.environment, tell) as own, open_channel(own.connection) as channel:
            found = Reached(connection=own.connection, channel=channel, info=pb.InfoResponse(), own=own)
            _load(found, where)
            yield _with_model(found)
    except WorkerEnded as ended:
        raise NotReached(str(ended)) from None


def _with_model(found: Reached) -> Reached:
    place = found.connection.address.target
    try:
        info = found.look()
    except grpc.RpcError as error:
        raise NotReached(found.sentence(error)) from None
    if not info.model:
        raise NotReached(f"The worker at {place} has no model loaded: load one, or name one with --model.")
    return Reached(connection=found.connection, channel=found.channel, info=info, own=found.own)


def _load(found: Reached, where: Where) -> None:
    assert found.own is not None
    request = pb.ModelOptions(Model=_name_of(where.model), Options=where.options)
    call = found.stub.LoadModel.future(request, metadata=found.connection.metadata, wait_for_ready=True)
    try:
        while True:
            try:
                result = call.result(timeout=_POLL_SECONDS)
                break
            except grpc.FutureTimeoutError:
                if ended := found.own.ending():
                    raise WorkerEnded(ended) from None
    except grpc.RpcError as error:
        raise NotReached(found.sentence(error)) from None
    finally:
        call.cancel()
    if not result.success:
        raise NotReached(f"The model does not load: {result.message.rstrip('.')}.")


def _name_of(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model
