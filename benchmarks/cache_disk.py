"""The disk below the prompt cache: reading against memory, a trace with a small memory, decode steps beside it.

    python -m benchmarks.cache_disk [--trace ../shared/traces/conversation_trace.jsonl]

The trace is that of `benchmarks.cache_trace`, which says where it comes from. Each request of it is fetched from
memory or from the disk, whichever has more, and stored; the files are real, of eight bytes a token and 512 tokens
(the trace knows no smaller block), on a file system in memory. "Naive" is what writing the whole conversation anew at
every turn would come to.

Steps are the products of a small model's decode step, alone and beside a thread that does nothing but read 4k tokens
again and again, with rests as the worker's reads have them beside rows that decode and without, or beside the writer at
its default pace; of some rounds the one that the machine's other work disturbed least. A thread that only copies memory
says what of it is the machine's: cores and memory that are shared.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from backend.engine.batching.cache_disk import BESIDE_ROWS
from benchmarks.cache_copy import fastest, filled
from benchmarks.cache_payload import EmptyPayload, layer
from benchmarks.cache_trace import BLOCK, TRACE, Request, read
from benchmarks.report import Report, arguments, parse
from mlx_cache import DiskTier, PromptCache
from mlx_cache.blocks import Layout, State
from mlx_cache.disk.codec import Bytes, Part, Segment

TOKENS = 4096
IN_MEMORY = Path("/dev/shm")
FILE_TOKENS, FILE_BYTES = BLOCK, 8192
"""Of the trace's files: a page of header and eight bytes a token."""


class SmallCodec:
    """Eight bytes of nothing a token."""

    def keeps(self, layout: Layout) -> bool:
        """See mlx_cache.disk.codec.Codec."""
        return True

    def pack(self, layout: Layout, segments: Sequence[Segment], state: State | None) -> tuple[dict[str, Any], Bytes]:
        """See mlx_cache.disk.codec.Codec."""
        return {"nbytes": FILE_TOKENS * 8}, np.zeros(FILE_TOKENS * 8, np.uint8)

    def begin(self, template: Sequence[Any], table: dict[str, Any], length: int, room: int) -> SmallFilling:
        """See mlx_cache.disk.codec.Codec."""
        return SmallFilling(length)


class SmallFilling:
    """See mlx_cache.disk.codec.Filling."""

    def __init__(self, length: int) -> None:
        self._length = length

    def parts(self, table: dict[str, Any]) -> list[Part]:
        """See mlx_cache.disk.codec.Filling."""
        return [Part(table["nbytes"], lambda piece: None)]

    def finish(self) -> list[Any]:
        """See mlx_cache.disk.codec.Filling."""
        return [self._length]


def replay(requests: list[Request], memory: int, on_disk: int) -> tuple[float, float, dict[str, Any]]:
    """Shares of the prompt tokens that came from memory, and from memory or disk; the disk's figures."""
    moment = [1.0]
    asked = from_memory = served = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as place:
        disk = DiskTier(
            Path(place) / "kv", max_bytes=on_disk * FILE_BYTES // FILE_TOKENS, bytes_per_second=None,
            queue_bytes=1 << 40, rescan_seconds=1e9, clock=lambda: moment[0], codec=SmallCodec(),
            block_tokens=FILE_TOKENS,
        )  # fmt: skip
        disk.open()
        cache = PromptCache(max_bytes=memory, max_buffers=1 << 60, payload=EmptyPayload(), disk=disk)
        for request in requests:
            moment[0] += 0.001
            tokens = request.tokens()
            length, there = cache.match_length("m", tokens), cache.match_disk("m", tokens)
            cache.fetch("m", tokens)
            from_memory += min(length, request.length - 1)
            if there > length:
                length = cache.fetch_from_disk("m", tokens, []).length
            served += min(length, request.length - 1)
            asked += request.length
            cache.insert("m", tokens, layer(len(tokens)))
            disk.flush(60)
        stats = disk.stats()
        disk.close(60)
    return from_memory / asked, served / asked, stats


def naive_tokens(requests: list[Request]) -> int:
    """What writing every conversation whole at every turn would write."""
    return sum(len(request.blocks) * BLOCK for request in requests)


def cheapest(call: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Milliseconds of the fastest of some calls, and of processor time of the cheapest."""
    cpu: list[float] = []

    def timed() -> Any:
        start = time.process_time()
        out = call()
        cpu.append(time.process_time() - start)
        return out

    return fastest(timed, repeat), 1e3 * min(cpu)


def restored(place: Path, shape: tuple[int, int, int], repeat: int) -> list[tuple[str, float, float]]:
    """Milliseconds, and those of the processor, of 4k tokens from memory and from the disk, and of writing them."""
    disk = DiskTier(place / "kv", max_bytes=1 << 40, bytes_per_second=None)
    disk.open()
    store, tokens = PromptCache(disk=disk, max_bytes=None), np.arange(TOKENS, dtype=np.int32)
    store.insert("m", tokens, filled(TOKENS, *shape))
    written = cheapest(lambda: store.flush(600), 1)
    asked, template = np.append(tokens, np.int32(-1)), [KVCache() for _ in range(shape[0])]
    calls: dict[str, Callable[[], Any]] = {
        "fetch of 4k tokens from memory": lambda: store.fetch("m", asked),
        "read of 4k tokens from the disk, in its page cache": lambda: disk.read("m", asked, template),
        "match on the disk": lambda: disk.match("m", asked),
    }
    rows = [(what, *cheapest(call, repeat)) for what, call in calls.items()]
    disk.close(60)
    return [*rows, ("write of 4k tokens, unpaced", *written)]


class Steps:
    """A decode step's products: a vector through matrices, evaluated once."""

    def __init__(self, layers: int, width: int) -> None:
        self._weights = [mx.random.normal((width, width)) / width**0.5 for _ in range(layers)]
        mx.eval(self._weights)
        self._start = mx.random.normal((1, width))

    def median(self, n: int) -> float:
        """Milliseconds of a step, the median of n."""
        times: list[float] = []
        for _ in range(n):
            start = time.perf_counter()
            x = self._start
            for weight in self._weights:
                x = mx.tanh(x @ weight)
            mx.eval(x)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def beside(work: Callable[[threading.Event], None], measure: Callable[[], float]) -> float:
    """What is measured while a thread works."""
    over, started = threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        work(over)

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        return measure()
    finally:
        over.set()
        thread.join()


def step_times(place: Path, shape: tuple[int, int, int], layers: int, n: int, rounds: int) -> list[list[float]]:
    """Rounds of: alone, beside copies, a reader, one that rests, the paced writer, an unpaced one."""
    steps, tokens = Steps(layers, 1024), np.arange(TOKENS, dtype=np.int32)
    disk = DiskTier(place / "steps", max_bytes=1 << 40)
    disk.open()
    store = PromptCache(disk=disk, max_bytes=None)
    store.insert("m", tokens, filled(TOKENS, *shape))
    store.flush(600)
    asked, template = np.append(tokens, np.int32(-1)), [KVCache() for _ in range(shape[0])]

    def reading(over: threading.Event, share: float = 1.0) -> None:
        while not over.is_set():
            disk.read("m", asked, template, cancelled=over.is_set, share=lambda: share)

    source, target = (np.zeros(64 << 20, np.uint8) for _ in range(2))

    def copying(over: threading.Event) -> None:
        while not over.is_set():
            np.copyto(target, source)

    def writing(over: threading.Event) -> None:
        while not over.is_set():
            disk.clear()
            # Offers all of it, without the copy that a fetch makes.
            store.pin("p", "m", tokens)
            store.unpin("p")
            over.wait(1.0)

    def rushing(over: threading.Event) -> None:
        while not over.is_set():
            disk.clear()
            store.flush(600)

    works = (copying, reading, partial(reading, share=BESIDE_ROWS), writing, rushing)
    out = [[steps.median(n), *(beside(work, lambda: steps.median(n)) for work in works)] for _ in range(rounds)]
    disk.close(60)
    return out


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--requests", type=int, help="only so many, from the start")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["restore", "steps", "trace"])
    options = parse(parser, requests=300, layers=2, repeat=3, steps=20, rounds=1)
    report, shape = Report(options), (options.layers, 8, 128)
    with tempfile.TemporaryDirectory() as directory:
        if options.only in (None, "restore"):
            mib = TOKENS * 2 * 2 * shape[0] * shape[1] * shape[2] / 2**20
            report.note(f"{shape[0]} layers, {shape[1]} heads of {shape[2]}, float16; 4k tokens are {mib:.0f} MiB")
            rows = restored(Path(directory), shape, options.repeat)
            table = [[what, ms, ms / rows[0][1], cpu, cpu / rows[0][2]] for what, ms, cpu in rows]
            report.table(["", "ms", "of the fetch", "ms of CPU", "of the fetch's"], table)
        if options.only in (None, "steps"):
            rounds = step_times(Path(directory), shape, 24, options.steps, options.rounds)
            alone, *others = (min(column) for column in zip(*rounds, strict=True))
            names = (
                "beside copies of memory",
                "beside a reader",
                f"beside a reader that works {BESIDE_ROWS:.0%} of the time",
                "beside the writer at its pace",
                "beside the writer without a pace",
            )
            steps = [["alone", alone, 1.0], *([name, ms, ms / alone] for name, ms in zip(names, others, strict=True))]
            report.table(["a decode step, p50", "ms", "of alone"], steps)
    if options.only in (None, "trace"):
        trace(report, options.trace, options.requests)


def trace(report: Report, path: Path, n: int | None) -> None:
    """The trace with 2 % of its distinct tokens in memory and 40 % on disk."""
    if not path.exists():
        print(f"THE TRACE IS MISSING: no {path}; benchmarks.cache_trace says where it is published", file=sys.stderr)
        report.note("not replayed: the trace is missing")
        return
    requests = read(path)[:n]
    distinct = len({block for request in requests for block in request.blocks}) * BLOCK
    start = time.perf_counter()
    memory, both, stats = replay(requests, distinct // 50, distinct * 2 // 5)
    seconds = time.perf_counter() - start
    written, naive = stats["bytes_written"] * FILE_TOKENS // FILE_BYTES, naive_tokens(requests)
    report.note(
        f"{len(requests):,} requests, {distinct:,} distinct tokens; {1e3 * seconds / len(requests):.1f} ms each"
    )
    report.table(
        ["2 % in memory, 40 % on disk", ""],
        [
            ["prompt tokens from memory", memory], ["from memory or disk", both],
            ["tokens written", f"{written:,}"], ["naive: each conversation anew each turn", f"{naive:,}"],
            ["of naive", written / naive], ["files evicted", stats["evicted"]], ["files dropped", stats["dropped"]],
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
