"""The names of files: keyed hashes, so that nobody without the directory's secret can predict or read them. Pure.

A name says what the index needs: `<parent16>-<self32>-<n>.<kind>` in the folder `v1/<namespace32>/<self's first 2>`.
`self` is the hash of the namespace and every token up to the end of the file; `parent` that up to its start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

import numpy as np

from mlx_cache.tree import Tokens

VERSION_FOLDER = "v1"
SECRET_BYTES = 32
MAX_BLOCK = 4096
GROUP_DIGITS = 8
"""Of a namespace's 32, those that it has in common with the others of its group."""


class Kind(StrEnum):
    """What a file holds, and what a restore needs beside it."""

    BLOCK = "kv"
    """Entries of a model that can be cut after any token; usable with the blocks before it."""
    PART = "kvs"
    """Entries of a model that cannot: usable with the blocks before it and a state behind it."""
    STATE = "st"
    """What restores exactly one position, with the parts before it."""
    ALONE = "sta"
    """What restores exactly one position, and needs nothing else."""

    @property
    def is_block(self) -> bool:
        """Whether others can hang below it."""
        return self in (Kind.BLOCK, Kind.PART)


_NAMESPACE = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})-([0-9]{1,4})\.(kvs?|sta?)")


@dataclass(frozen=True, slots=True)
class Name:
    """One file. `n` is how many tokens lie between parent and self."""

    namespace: str
    parent: bytes
    digest: bytes
    n: int
    kind: Kind

    @property
    def key(self) -> bytes:
        """What its children have as their parent: the first eight bytes of the digest."""
        return self.digest[:8]

    @property
    def folder(self) -> str:
        """The folder below the namespace's."""
        return self.digest.hex()[:2]

    @property
    def file(self) -> str:
        """The name in its folder."""
        return f"{self.parent.hex()}-{self.digest.hex()}-{self.n}.{self.kind}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.folder}/{self.file}"


def is_namespace(text: str) -> bool:
    """Whether a folder of this name can be a namespace's."""
    return _NAMESPACE.fullmatch(text) is not None


def parse(namespace: str, folder: str, file: str) -> Name | None:
    """The name of a file found in a folder; None for what is not one of ours."""
    match = _NAME.fullmatch(file)
    if match is None or not is_namespace(namespace):
        return None
    name = Name(namespace, bytes.fromhex(match[1]), bytes.fromhex(match[2]), int(match[3]), Kind(match[4]))
    return name if name.file == file and name.folder == folder and name.n <= MAX_BLOCK else None


class Chain:
    """Names under one directory's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def namespace(self, text: str) -> str:
        """The folder of a namespace. It begins with its group's digits."""
        return self.group(text) + self._hash(b"namespace", text.encode("utf-8", "surrogatepass"), 12).hex()

    def group(self, text: str) -> str:
        """How the folders of all namespaces begin whose texts have the same first line."""
        first, _, _ = text.partition("\n")
        return self._hash(b"group", first.encode("utf-8", "surrogatepass"), GROUP_DIGITS // 2).hex()

    def label(self, text: str) -> str:
        """What stands for a text that must not be read, or guessed, from the directory."""
        return self._hash(b"label", text.encode("utf-8", "surrogatepass"), 16).hex()

    def seed(self, namespace: str) -> bytes:
        """The parent of a namespace's first block."""
        return self._hash(b"seed", bytes.fromhex(namespace), 16)

    def block(self, parent: bytes, tokens: Tokens) -> bytes:
        """The digest of a block behind its parent."""
        return self._hash(b"block", parent + _little_endian(tokens), 16)

    def state(self, parent: bytes, tokens: Tokens) -> bytes:
        """The digest of a state so many tokens behind its parent; none of them is a state at the parent's end."""
        return self._hash(b"state", parent + _little_endian(tokens), 16)

    def keys(self, namespace: str, tokens: Tokens, block_tokens: int) -> set[bytes]:
        """The keys of every file that a sequence can have, its own end's too."""
        parent, out = self.seed(namespace), set[bytes]()
        for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
            parent = self.block(parent, tokens[start : start + block_tokens])
            out.add(parent[:8])
        rest = tokens[len(out) * block_tokens :]
        return out | {self.block(parent, rest)[:8], self.state(parent, rest)[:8]}

    def mac(self, header: bytes) -> bytes:
        """What proves that a header was written by somebody who knows the secret."""
        return self._hash(b"header", header, 32)

    def _hash(self, person: bytes, data: bytes, size: int) -> bytes:
        return blake2b(data, digest_size=size, key=self._secret, person=person).digest()


def _little_endian(tokens: Tokens) -> bytes:
    return tokens.astype(np.dtype("<i4"), copy=False).tobytes()
