"""The header of a file, and what is checked of it before anything is believed. Pure.

A file is a header of whole pages and a body. The header: a fixed part, a table as JSON, the tokens as little-endian
int32, zeros, and a keyed hash over all of that in its last 32 bytes. The checksum of the body is in the fixed part.
"""

from __future__ import annotations

import hmac
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_cache.disk.names import Chain, Kind, Name
from mlx_cache.tree import Tokens

PAGE = 4096
MAX_HEADER = 1 << 20
VERSION = 1

_MAGIC = b"mlxkvdsk"
# magic, version, header bytes, body bytes, body's crc32, table bytes, tokens, start, namespace, parent, self, n, kind
_FIXED = struct.Struct("<8sIIQIIIQ16s8s16sI4s")
_MAC = 32


class BadFile(Exception):
    """A file that is not what its name says; the argument says why, in a few words and without content."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says it holds: the tokens from position `start`, and the body's table."""

    name: Name
    start: int
    tokens: Tokens
    table: dict[str, Any]
    body_nbytes: int
    crc: int


def encode(header: Header, chain: Chain) -> bytes:
    """The header's pages."""
    name, table = header.name, json.dumps(header.table, separators=(",", ":")).encode()
    tokens = header.tokens.astype(np.dtype("<i4"), copy=False).tobytes()
    size = -(-(_FIXED.size + len(table) + len(tokens) + _MAC) // PAGE) * PAGE
    if size > MAX_HEADER:
        raise BadFile("the header is too large")
    fixed = _FIXED.pack(
        _MAGIC, VERSION, size, header.body_nbytes, header.crc, len(table), len(header.tokens), header.start,
        bytes.fromhex(name.namespace), name.parent, name.digest, name.n, str(name.kind).encode(),
    )  # fmt: skip
    told = (fixed + table + tokens).ljust(size - _MAC, b"\0")
    return told + chain.mac(told)


def header_length(page: bytes) -> int:
    """Bytes of the header that begins with this page."""
    if len(page) < PAGE or page[:8] != _MAGIC:
        raise BadFile("not a file of this cache")
    version, size = struct.unpack_from("<II", page, 8)
    if version != VERSION:
        raise BadFile(f"version {version}, not {VERSION}")
    if not PAGE <= size <= MAX_HEADER or size % PAGE:
        raise BadFile("header of an impossible length")
    return size


def decode(told: bytes, chain: Chain, file_nbytes: int) -> Header:
    """Read a whole header. Nothing in it is looked at before its keyed hash is right."""
    if len(told) != header_length(told):
        raise BadFile("cut off")
    if not hmac.compare_digest(chain.mac(told[:-_MAC]), told[-_MAC:]):
        raise BadFile("header not written with this directory's secret, or damaged")
    fixed = _FIXED.unpack_from(told)
    _, _, size, body_nbytes, crc, table_nbytes, n_tokens, start, namespace, parent, digest, n, kind = fixed
    if size + body_nbytes != file_nbytes:
        raise BadFile(f"{file_nbytes} bytes long, should be {size + body_nbytes}")
    if _FIXED.size + table_nbytes + 4 * n_tokens + _MAC > size or n_tokens != n:
        raise BadFile("lengths that do not fit the header")
    at = _FIXED.size + table_nbytes
    try:
        table = json.loads(told[_FIXED.size : at])
        name = Name(namespace.hex(), parent, digest, n, Kind(kind.rstrip(b"\0").decode("ascii")))
    except (ValueError, RecursionError):
        raise BadFile("table that cannot be read") from None
    if not isinstance(table, dict):
        raise BadFile("table that cannot be read")
    tokens = np.frombuffer(told, np.dtype("<i4"), n_tokens, at).astype(np.int32, copy=False)
    return Header(name, start, tokens, table, body_nbytes, crc)
