"""Where a worker is and how it lets a client in."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.process.setting_table import text_of
from backend.process.settings import token_of
from backend.rpc.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to call a worker.

    Attributes:
        tls_ca: PEM of whom to trust; None calls without TLS.
    """

    address: Address
    token: str = ""
    tls_ca: bytes | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def add_arguments(parser: argparse._ActionsContainer, *, address: argparse._ActionsContainer | None = None) -> None:
    """The arguments that `connection_of` reads.

    Args:
        address: What gets `--addr`, where that excludes something else.
    """
    (address or parser).add_argument(
        "--addr", help="of the worker: HOST:PORT or unix:PATH (default: 127.0.0.1:50051; env MLX_WORKER_ADDR)"
    )
    parser.add_argument(
        "--token-file", help="with the bearer token (env LOCALAI_GRPC_AUTH_TOKEN or MLX_WORKER_TOKEN: the token)"
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="PEM of whom to trust, where the worker serves TLS")


def connection_of(given: argparse.Namespace, environment: Mapping[str, str]) -> Connection:
    """The connection that arguments and environment name.

    Raises:
        ValueError: A file cannot be read, or the token cannot be sent.
        OSError: The token's file cannot be read.
        AddressError: The address is none.
    """
    token = token_of(text_of("token_file", given.token_file, environment), environment)
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters that a call cannot carry")
    return Connection(
        address=Address.parse(text_of("addr", given.addr, environment)),
        token=token,
        tls_ca=_trusted(given.tls_ca) if given.tls_ca is not None else None,
    )


def _trusted(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
