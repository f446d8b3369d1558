"""Mixed traffic over one worker, every answer checked against what it is alone, memory and descriptors watched.

    python -m tests.soak [--minutes 60] [--clients 24] [--seed 1] [--json FILE]

Models of several cache families in turn, each loaded while requests for the one before it run. The prompt cache is
small and has a disk, so that prefixes come, go and come back. Exit code 1 where an answer was wrong, a request ended
as none may, the worker wrote a traceback, or memory or descriptors grow by more than a little a minute.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from backend.engine.sampling.sampled import NOT_FINITE
from backend.pb import backend_pb2 as pb
from tests.e2e.faulty_worker import PlantedError
from tests.e2e.oracle import check_log
from tests.e2e.worker import Worker
from tests.soak.clients import Clients, Seen
from tests.soak.corpus import Corpus, learn, models
from tests.soak.growth import Growth

# A sixth of the time, ten minutes of an hour, is for caches to fill and allocators to find their size.
WARM = 1 / 6
MIB_A_MINUTE = 1.0
DESCRIPTORS_A_MINUTE = 0.5
THREADS_A_MINUTE = 0.2
# Of a shorter run the slopes are told, and not judged: they are those of the allocator's warm-up.
LEAST_MINUTES = 10.0
PHASE_SECONDS = (8.0, 40.0)
CACHE_BYTES = 12 << 20


def main() -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--requests", type=int, default=60, help="different ones of each model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told, right = run(options, Path(folder))
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if right else 1


def run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, object], bool]:
    """Learn every answer, then let the clients loose on another worker."""
    with Worker("--speculation", "off", "--prompt-cache-size", "0", "--max-rows", "1") as alone:
        corpora = [learn(alone, name, path, count=options.requests, seed=options.seed) for name, path in models(folder)]
    disk = folder / "cache"
    disk.mkdir()
    arguments = ("--prompt-cache-dir", str(disk), "--prompt-cache-bytes", str(CACHE_BYTES), "--max-rows", "16")
    arguments = (*arguments, "--metrics-port", "auto")
    orders = folder / "orders"
    command = ("-m", "tests.soak.faulty_worker", str(orders))
    with Worker(*arguments, command=command, environment={"MLX_WORKER_GRACE": "10s"}) as worker:
        seen, growth = Seen(), Growth(worker.pid)
        clients = Clients(worker.address, seen, options.clients, options.seed, orders)
        loads = asyncio.run(_traffic(worker, corpora, clients, growth, options))
        worker.rest()
        check_log(worker)
        for details in unplanted(seen.hit_by_a_fault, worker.log.lines):
            seen.note(f"INTERNAL, and not by what was planted: {details}")
        queue = dict(worker.queue())
        served = _tokens_served(worker)
        left = [str(path) for path in disk.rglob("*") if ".tmp" in path.name]
    memory, threads, descriptors = growth.slopes(after=options.minutes * WARM)
    told: dict[str, object] = {
        "minutes": options.minutes,
        "clients": options.clients,
        "loads": loads,
        "requests": seen.ends.total(),
        "ends": dict(seen.ends.most_common()),
        "answers checked": seen.checked,
        "answers wrong or ended as none may": len(seen.wrong),
        "tokens served": int(served),
        "tokens received": seen.tokens,
        "faults planted in the model": clients.hardship.faulty.count,
        "answers hit by one": len(seen.hit_by_a_fault),
        "bursts and waves": clients.hardship.crowded.count,
        "requests refused in one": seen.refused_in_a_crowd,
        "floods of resets": clients.hardship.floods.count,
        "prompt tokens from the cache": seen.cached,
        "guessed tokens that were right": seen.guessed,
        "rows sent back for memory": queue.get("preemptions", 0.0),
        "slowest Health, s": round(seen.slowest_health, 3),
        "MiB a minute": round(memory, 3),
        "threads a minute": round(threads, 3),
        "descriptors a minute": round(descriptors, 3),
        "most MiB, threads, descriptors": growth.most(),
        "least MiB of each minute": [round(least, 1) for _, least in growth.floor()],
        "temporary files left": left,
        "first wrong": seen.wrong[:5],
    }
    grows = memory >= MIB_A_MINUTE or descriptors >= DESCRIPTORS_A_MINUTE or threads >= THREADS_A_MINUTE
    return told, not seen.wrong and not left and (not grows or options.minutes < LEAST_MINUTES)


async def _traffic(
    worker: Worker, corpora: Sequence[Corpus], clients: Clients, growth: Growth, options: argparse.Namespace
) -> int:
    """Until the time is over; how many loads there were."""
    drawn = random.Random(options.seed)
    end = time.monotonic() + 60 * options.minutes
    watching = asyncio.create_task(growth.watch())
    asking: asyncio.Task[None] | None = None
    loads = 0
    for corpus in itertools.cycle(corpora):
        # From here on requests for the model before it may be refused.
        clients.corpus = None
        if drawn.random() < 0.2:
            await asyncio.to_thread(worker.stub.Free, pb.HealthMessage(), timeout=60)
        # Bursts fill a small queue, waves the default one.
        await asyncio.to_thread(worker.must_load, corpus.model, *([] if loads % 2 else ["queue_size:64"]))
        loads += 1
        clients.corpus = corpus
        asking = asking or asyncio.create_task(clients.run())
        left = end - time.monotonic()
        await asyncio.sleep(max(0.0, min(left, drawn.uniform(*PHASE_SECONDS))))
        if asking.done() or time.monotonic() >= end:
            break
    clients.stop()
    assert asking is not None
    await asking
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return loads


def unplanted(details: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Of answers that ended INTERNAL, what the others were told: the log names each fault and its kind."""
    planted = {found[1] for line in lines if (found := re.search(rf"fault=(\w+) error={PlantedError.__name__}", line))}
    return [told for told in details if NOT_FINITE not in told and told.rpartition(" ")[2] not in planted]


def _tokens_served(worker: Worker) -> float:
    """Of all loads."""
    with urllib.request.urlopen(worker.log.wait_for(r"metrics url=(\S+)")[1], timeout=10) as answer:
        return float(re.search(rb"^mlx_worker_generation_tokens_total\S* (\S+)$", answer.read(), re.MULTILINE)[1])  # type: ignore[index]


if __name__ == "__main__":
    raise SystemExit(main())
