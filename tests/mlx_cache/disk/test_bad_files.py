"""Files that are wrong in any way: a miss, put aside, one line in the log, and never an error to the reader."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_cache import DiskTier, PromptCache, Reason
from mlx_cache.disk.format import BadFile, Header, decode, encode
from mlx_cache.disk.names import Chain, Kind, Name, parse
from tests.mlx_cache.disk.parts import files
from tests.mlx_cache.disk.test_layers import assert_equal, feed, prompt_of, state, tier

TOKENS = prompt_of(600)
ASKED = np.append(TOKENS, np.int32(-1))


@pytest.fixture(scope="module")
def caches() -> list[Any]:
    mx.random.seed(3)
    return [feed(KVCache(), 600, mx.float16)]


@pytest.fixture
def directory(tmp_path: Path, caches: list[Any]) -> Path:
    """What a worker left: two whole blocks and a part of one."""
    disk = tier(tmp_path / "kv")
    store = PromptCache(disk=disk)
    store.insert("m", TOKENS, caches)
    assert store.flush(60)
    disk.close(10)
    return tmp_path / "kv"


def in_order(path: Path) -> list[Path]:
    """The files along the chain, from the start."""
    found = {f.name.split("-")[1][:16]: f for f in files(path)}
    parents = {key: f.name.split("-")[0] for key, f in found.items()}
    depth = lambda key: 1 + depth(parents[key]) if key in found else 0  # noqa: E731
    return [found[key] for key in sorted(found, key=depth)]


def read(path: Path, caplog: pytest.LogCaptureFixture, caches: list[Any]) -> tuple[int, list[str], dict[str, Any]]:
    """Read everything; what is found must be right. The length, the log's lines, the tier's figures."""
    disk = tier(path)
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        fetched = disk.read("m", ASKED, [KVCache()])
    if fetched.caches is not None:
        part = KVCache()
        part.keys, part.values = (a[..., : fetched.length, :] for a in (caches[0].keys, caches[0].values))
        part.offset = fetched.length
        assert_equal(fetched.caches, [part], fetched.length)
    else:
        assert fetched.length == 0
    stats = disk.stats()
    disk.close(10)
    return fetched.length, [record.getMessage() for record in caplog.records], stats


def edit(path: Path, change: Callable[[bytearray], Any]) -> None:
    told = bytearray(path.read_bytes())
    changed = change(told)
    path.write_bytes(told if changed is None else changed)


def flip(at: int, bit: int = 0) -> Callable[[bytearray], None]:
    def change(told: bytearray) -> None:
        told[at] ^= 1 << bit

    return change


def swap(a: int, b: int, n: int) -> Callable[[bytearray], None]:
    def change(told: bytearray) -> None:
        told[a : a + n], told[b : b + n] = told[b : b + n], told[a : a + n]

    return change


DAMAGE: dict[str, Callable[[bytearray], Any]] = {
    **{f"a bit of the header at {at}": flip(at) for at in (0, 8, 12, 16, 24, 28, 32, 36, 44, 60, 68, 84, 88)},
    "a bit of the table": flip(150), "a bit of the tokens": flip(700, 3), "a bit of the padding": flip(3000),
    "a bit of the keyed hash": flip(4095), "the first bit of the body": flip(4096), "a bit of the body": flip(50000, 7),
    "the last bit of the body": flip(-1, 7),
    "nothing": lambda told: b"", "a byte": lambda told: told[:1], "half of the header": lambda told: told[:2048],
    "the header alone": lambda told: told[:4096], "all but a byte": lambda told: told[:-1],
    "half": lambda told: told[: len(told) // 2], "a byte too many": lambda told: told + b"\0",
    "zeros": lambda told: bytes(len(told)), "zeros for a body": lambda told: told[:4096] + bytes(len(told) - 4096),
    "a page of zeros in the body": lambda told: told[:8192] + bytes(4096) + told[12288:],
    "rows of the body swapped": swap(4096, 4096 + 2 * 256 * 64, 2 * 256 * 64), "two tokens swapped": swap(600, 604, 4),
    "a header and its body exchanged": lambda told: told[4096:8192] + told[:4096] + told[8192:],
    "text": lambda told: b"hello\n" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_miss_a_line_and_put_aside(
    damage: str, directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    edit(in_order(directory)[1], DAMAGE[damage])
    length, lines, stats = read(directory, caplog, caches)
    assert length == 256
    assert len(lines) == 1 and "\n" not in lines[0] and "is put aside" in lines[0]
    assert stats["quarantined"] == 1 and len(list((directory / "quarantine").iterdir())) == 1
    # The next reader finds it gone, and nothing to say.
    assert read(directory, caplog, caches)[:2] == (256, [])


def test_every_position_of_a_small_header_counts(directory: Path, caches: list[Any]) -> None:
    path = in_order(directory)[0]
    told = path.read_bytes()
    secret = (directory / "secret").read_bytes()
    chain = Chain(secret)
    assert decode(told[:4096], chain, len(told)).crc
    for at in range(4096):
        damaged = bytearray(told[:4096])
        damaged[at] ^= 0x10
        with pytest.raises(BadFile):
            decode(bytes(damaged), chain, len(told))


def test_files_under_each_others_names_are_misses(
    directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = in_order(directory)
    told = first.read_bytes(), second.read_bytes()
    first.write_bytes(told[1])
    second.write_bytes(told[0])
    length, lines, stats = read(directory, caplog, caches)
    assert (length, stats["quarantined"], len(lines)) == (0, 1, 1)
    assert "another name" in lines[0]


def test_a_file_of_another_directory_is_a_miss(
    directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = tier(tmp_path / "other")
    store = PromptCache(disk=other)
    store.insert("m", TOKENS, caches)
    assert store.flush(60)
    other.close(10)
    shutil.copy(in_order(tmp_path / "other")[0], in_order(directory)[0])
    length, lines, _ = read(directory, caplog, caches)
    assert length == 0 and "secret" in lines[0]


# Files that somebody who knows the secret has written wrongly: the same checks, one layer further in.

Change = Callable[[dict[str, Any]], Any]


def rewritten(path: Path, directory: Path, *, start: int | None = None, tokens: Any = None, change: Change) -> None:
    chain, told = Chain((directory / "secret").read_bytes()), path.read_bytes()
    header = decode(told[: struct.unpack_from("<I", told, 12)[0]], chain, len(told))
    table = json.loads(json.dumps(header.table))
    changed = change(table)
    table = table if changed is None else changed
    made = Header(
        header.name, header.start if start is None else start, header.tokens if tokens is None else tokens, table,
        header.body_nbytes, header.crc,
    )  # fmt: skip
    path.write_bytes(encode(made, chain) + told[len(told) - header.body_nbytes :])


def layout(change: Callable[[Any, Any], Any]) -> Change:
    def apply(table: dict[str, Any]) -> None:
        groups, layers = json.loads(table["layout"])
        change(groups, layers)
        table["layout"] = json.dumps([groups, layers], separators=(",", ":"))

    return apply


def put(where: Any, key: Any, value: Any) -> None:
    where[key] = value


TABLES: dict[str, Change] = {
    "a class that is a function of Python": layout(lambda groups, layers: put(layers[0], 1, "copy")),
    "a class that exists and was not asked for": layout(lambda groups, layers: put(layers[0], 1, "LRUPromptCache")),
    "a class by its own name": layout(lambda groups, layers: put(layers[0], 1, "KVCache")),
    "whole": layout(lambda groups, layers: put(layers[0], 1, "whole")),
    "a parameter": layout(lambda groups, layers: put(layers[0], 2, [4])),
    "fewer layers": layout(lambda groups, layers: layers.clear()),
    "more layers": layout(lambda groups, layers: layers.append(layers[0])),
    "another place": layout(lambda groups, layers: put(layers[0], 0, "1")),
    "a group that is not there": layout(lambda groups, layers: put(layers[0], 3, [0, 7])),
    "a group below none": layout(lambda groups, layers: put(layers[0], 3, [-1, -1])),
    "a dtype": layout(lambda groups, layers: put(groups[0], 5, "float32")),
    "a dtype of the same size": layout(lambda groups, layers: put(groups[0], 5, "__class__")),
    "negative heads": layout(lambda groups, layers: put(groups[0], 3, -2)),
    "huge heads": layout(lambda groups, layers: put(groups[0], 3, 1 << 40)),
    "heads that are no number": layout(lambda groups, layers: put(groups[0], 3, None)),
    "other heads": layout(lambda groups, layers: put(groups[0], 3, 1)),
    "a window": layout(lambda groups, layers: put(groups[0], 1, 10)),
    "no layout": lambda table: put(table, "layout", None),
    "a layout that is no JSON": lambda table: put(table, "layout", "["),
    "a layout without end": lambda table: put(table, "layout", "[" * 1500),
    "no table": lambda table: {},
    "a negative position": lambda table: put(table["segments"][0], 1, -5),
    "a huge position": lambda table: put(table["segments"][0], 2, 10**9),
    "a position that is no number": lambda table: put(table["segments"][0], 1, "x"),
    "an end before its start": lambda table: put(table["segments"], 0, [0, 256, 0]),
    "a segment of no group": lambda table: put(table["segments"][0], 0, 9),
    "a segment of a group below none": lambda table: put(table["segments"][0], 0, -1),
    "a segment twice": lambda table: put(table, "segments", table["segments"] * 2),
    "no segments": lambda table: put(table, "segments", []),
    "states of a model without": lambda table: put(table, "states", [[[[1, 2], "float16"]]]),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_a_header_that_is_signed_and_wrong_is_a_miss(
    what: str, directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    # The first file decides what is allocated, the others have to agree with it.
    number = len(what) % 2
    rewritten(in_order(directory)[number], directory, change=TABLES[what])
    length, lines, stats = read(directory, caplog, caches)
    assert (length, stats["quarantined"], len(lines)) == (256 * number, 1, 1)


@pytest.mark.parametrize("start", [1, 256, 1 << 40])
def test_a_block_that_says_it_begins_elsewhere_is_a_miss(
    start: int, directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(in_order(directory)[0], directory, start=start, change=lambda table: None)
    assert read(directory, caplog, caches)[0] == 0


def test_a_block_of_other_tokens_is_a_miss(
    directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(in_order(directory)[0], directory, tokens=TOKENS[:256] + 1, change=lambda table: None)
    length, lines, _ = read(directory, caplog, caches)
    assert length == 0 and "other tokens" in lines[0]


STATES: dict[str, Change] = {
    "one state fewer": lambda table: table["states"].clear(),
    "one state more": lambda table: table["states"].append(table["states"][0]),
    "one array fewer": lambda table: table["states"][0].pop(),
    "another shape of the same size": lambda table: put(table["states"][0], 0, [[3, 1, 7], "float16"]),
    "a negative shape": lambda table: put(table["states"][0], 0, [[1, -3, -7], "float16"]),
    "a huge shape": lambda table: put(table["states"][0], 0, [[1, 1 << 40, 1 << 40], "float16"]),
    "no shape": lambda table: put(table["states"][0], 0, [[], "float16"]),
    "a dtype that is none": lambda table: put(table["states"][0], 0, [[1, 3, 7], "object"]),
    "no array": lambda table: put(table["states"][0], 0, None),
    "not even a list": lambda table: put(table, "states", 5),
}


@pytest.mark.parametrize("what", STATES)
def test_a_state_that_is_signed_and_wrong_is_a_miss(what: str, tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    store = PromptCache(disk=disk)
    store.insert("m", TOKENS, [feed(KVCache(), 600, mx.float16), state(mx.float16)])
    assert store.flush(60)
    (path,) = (tmp_path / "kv").glob("v1/*/*/*.st")
    rewritten(path, tmp_path / "kv", change=STATES[what])
    fetched = disk.read("m", ASKED, [KVCache(), ArraysCache(2)])
    assert fetched.caches is None and disk.stats()["quarantined"] == 1
    disk.close(10)


def test_another_version_is_a_miss_whatever_it_holds(
    directory: Path, caches: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    for number, version in ((2, 0), (1, 2), (0, 1 << 31)):
        edit(in_order(directory)[number], lambda told, v=version: struct.pack_into("<I", told, 8, v))
        length, lines, _ = read(directory, caplog, caches)
        assert length == 256 * number and f"version {version}, not 1" in lines[0]


def test_checking_finds_every_bad_file_and_can_put_it_aside(directory: Path) -> None:
    first, second, third = in_order(directory)
    edit(first, flip(5000))
    edit(third, lambda told: told[:-7])
    disk = tier(directory)
    found = dict(disk.verify())
    assert {Path(name).name for name in found} == {first.name, third.name}
    assert len(files(directory)) == 3
    assert len(list(disk.verify(quarantine=True))) == 2
    assert files(directory) == [second] and list(disk.verify()) == []
    disk.close(10)


def test_what_is_put_aside_is_bounded(tmp_path: Path, caches: list[Any]) -> None:
    disk = DiskTier(tmp_path / "kv", max_bytes=64 << 20, bytes_per_second=None, block_tokens=8)
    disk.open()
    store = PromptCache(disk=disk)
    store.insert("m", TOKENS, caches)
    assert store.flush(60)
    for path in files(tmp_path / "kv"):
        edit(path, flip(0))
    assert len(list(disk.verify(quarantine=True))) == 75
    kept = list((tmp_path / "kv" / "quarantine").iterdir())
    assert len(kept) == 32 and sum(path.stat().st_size for path in kept) <= 4 << 20
    disk.close(10)


def test_what_was_put_aside_is_written_again(directory: Path, caches: list[Any]) -> None:
    edit(in_order(directory)[0], flip(-1))
    disk = tier(directory)
    store = PromptCache(disk=disk)
    assert disk.read("m", ASKED, [KVCache()]).reason is Reason.UNREADABLE
    store.insert("m", TOKENS, caches)
    assert store.flush(60)
    assert disk.read("m", ASKED, [KVCache()]).length == 600
    disk.close(10)


ZEROS = "0" * 32


@pytest.mark.parametrize(
    "name",
    [
        "", "x", "..", ZEROS, f"{ZEROS[:16]}-{ZEROS}-256.kv2", f"{ZEROS[:16]}-{ZEROS}-0256.kv",
        f"{ZEROS[:15]}g-{ZEROS}-1.kv", f"{ZEROS[:16]}-{ZEROS}-9999.kv", f"{ZEROS[:16]}-{'1' * 32}-1.kv",
        f"{ZEROS[:16]}-{ZEROS}-1.kv\n", f"{'A' * 16}-{ZEROS}-1.kv", f"../{ZEROS[:16]}-{ZEROS}-1.kv",
    ],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_none(name: str) -> None:
    assert parse("0" * 32, "00", name) is None


def test_names_are_read_as_they_are_made() -> None:
    for kind in Kind:
        name = Name("ab" * 16, b"parent__", b"digest__" * 2, 17, kind)
        assert parse(name.namespace, name.folder, name.file) == name
        assert os.path.normpath(str(name)) == str(name)
    assert parse("x", "64", Name("ab" * 16, b"parent__", b"digest__" * 2, 17, Kind.BLOCK).file) is None
