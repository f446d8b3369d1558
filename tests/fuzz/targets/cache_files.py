"""The prompt cache's files, signed with their directory's secret: what they say is checked all the same."""

import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_cache import DiskTier, PromptCache
from mlx_cache.disk.format import PAGE, BadFile, Header, decode, encode
from mlx_cache.disk.names import Chain
from tests.fuzz.changing import Words, change_bytes
from tests.fuzz.structures import change_json
from tests.fuzz.target import Broken, Target

_CHAIN = Chain(b"s" * 32)
_MAC = 32
_LENGTH, _BLOCK = 20, 8
_TOKENS = np.arange(_LENGTH, dtype=np.int32)
_ASKED = np.append(_TOKENS, np.int32(-1))


def cache_header() -> Target:
    """A header's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        headers = [path.read_bytes()[:PAGE] for path in _written(Path(folder))]
    return Target(run=_header, seeds=headers, change=_change_header, refusals=(BadFile,))


def _header(data: bytes) -> None:
    told = data[:-_MAC] + _CHAIN.mac(data[:-_MAC])
    decode(told, _CHAIN, int.from_bytes(data[16:24], "little") + len(told))


def _change_header(rng: random.Random, data: bytes, words: Words) -> bytes:
    # What is behind the table and the tokens are zeros: nothing to change.
    end = rng.choice((88, 140, 600))
    return (change_bytes(rng, data[:end], words)[:end].ljust(end, b"\0") + data[end:PAGE]).ljust(PAGE, b"\0")


def cache_files() -> Target:
    """Which file it is, and what its header says, as JSON."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    paths = _written(root)
    sound = {path: path.read_bytes() for path in paths}
    chain = Chain((root / "secret").read_bytes())
    headers = [decode(told[: struct.unpack_from("<I", told, 12)[0]], chain, len(told)) for told in sound.values()]
    seeds = [
        json.dumps([at, header.table, header.start, header.tokens.tolist()]).encode()
        for at, header in enumerate(headers)
    ]

    def read(data: bytes) -> None:
        for path, told in sound.items():
            path.write_bytes(told)
        try:
            at, table, start, tokens = json.loads(data)
            path, header = paths[at % len(paths)], headers[at % len(paths)]
            body = sound[path][-header.body_nbytes :]
            made = Header(header.name, start, np.array(tokens, np.int32), table, header.body_nbytes, header.crc)
            path.write_bytes(encode(made, chain) + body)
        # What no header can be made of.
        except (ValueError, TypeError, OverflowError, RecursionError, struct.error, BadFile):
            return
        _read(root)

    return Target(run=read, seeds=seeds, change=change_json, seconds=10.0, close=folder.cleanup)


def _tier(root: Path) -> DiskTier:
    tier = DiskTier(root, max_bytes=1 << 30, bytes_per_second=None, block_tokens=_BLOCK)
    tier.open()
    return tier


def _caches() -> list[Any]:
    cache, state = KVCache(), ArraysCache(2)
    cache.update_and_fetch(mx.ones((1, 2, _LENGTH, 4)), mx.ones((1, 2, _LENGTH, 2)))
    state.cache[0], state.cache[1] = mx.ones((1, 3, 2)), mx.ones((1, 2))
    mx.eval(cache.state, state.cache[0], state.cache[1])
    return [cache, state]


def _written(root: Path) -> list[Path]:
    """The files of a directory that a cache has written to, in an order that does not change."""
    tier = _tier(root)
    for caches, namespace in ((_caches(), "m"), (_caches()[:1], "n")):
        store = PromptCache(disk=tier)
        store.insert(namespace, _TOKENS, caches)
        store.flush(10)
    tier.close(10)
    return sorted(root.glob("v1/*/*/*.*"), key=lambda path: (path.suffix, path.stat().st_size, path.name))


def _read(root: Path) -> None:
    tier = _tier(root)
    try:
        for namespace, template in (("m", [KVCache(), ArraysCache(2)]), ("n", [KVCache()])):
            found = tier.read(namespace, _ASKED, template)
            if found.caches is None:
                continue
            if not 0 < found.length <= _LENGTH or found.caches[0].offset != found.length:
                raise Broken("caches of another length than is told", (found.length, found.caches[0].offset))
            mx.eval([cache.state for cache in found.caches])
        list(tier.verify())
    finally:
        tier.close(10)
